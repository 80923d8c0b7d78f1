"""Layers one by one: shapes, parameters, gradients, and what they refuse."""

import numpy as np
import oracle
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pyconv
from pyconv import initializers
from pyconv.layers import (
    ELU,
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    Rescaling,
    Residual,
    ZeroPadding2D,
)
from pyconv.model import Sequential

# layer, shape of an input, shape of the output, shapes of the parameters
LAYERS = [
    (Conv2D(8, 3), (7, 6, 3), (5, 4, 8), {"w": (3, 3, 3, 8), "b": (8,)}),
    (Conv2D(4, 4, padding="same", use_bias=False), (7, 6, 3), (7, 6, 4), {"w": (4, 4, 3, 4)}),
    (
        Conv2D(6, (2, 3), (2, 1), ((1, 0), (2, 1)), (1, 2), 2, "relu", bias_initializer="ones"),
        (6, 7, 4),
        (3, 6, 6),
        {"w": (2, 3, 2, 6), "b": (6,)},
    ),
    (DepthwiseConv2D(3, 2, "same"), (7, 6, 3), (4, 3, 3), {"w": (3, 3, 1, 3), "b": (3,)}),
    (
        DepthwiseConv2D(2, depth_multiplier=3, dilation_rate=2, activation="relu", use_bias=False),
        (5, 6, 2),
        (3, 4, 6),
        {"w": (2, 2, 1, 6)},
    ),
    (Conv2DTranspose(5, 3), (3, 4, 2), (5, 6, 5), {"w": (3, 3, 5, 2), "b": (5,)}),
    (Conv2DTranspose(3, 4, 2, "same"), (3, 4, 2), (6, 8, 3), {"w": (4, 4, 3, 2), "b": (3,)}),
    (
        Conv2DTranspose(
            6, (2, 3), (2, 1), ((1, 0), (2, 1)), (1, 0), (1, 2), 2, "relu", bias_initializer="ones"
        ),
        (3, 6, 4),
        (6, 7, 6),
        {"w": (2, 3, 3, 4), "b": (6,)},
    ),
    (Conv2DTranspose(2, 3, padding=1, use_bias=False), (3, 4, 2), (3, 4, 2), {"w": (3, 3, 2, 2)}),
    (MaxPooling2D(), (7, 6, 3), (3, 3, 3), {}),
    (MaxPooling2D(3, 2, "same"), (7, 6, 3), (4, 3, 3), {}),
    (MaxPooling2D((2, 3), (1, 2)), (7, 6, 3), (6, 2, 3), {}),
    (AveragePooling2D(), (7, 6, 3), (3, 3, 3), {}),
    (AveragePooling2D(3, 2, "same"), (7, 6, 3), (4, 3, 3), {}),
    (GlobalAveragePooling2D(), (4, 5, 3), (3,), {}),
    (GlobalMaxPooling2D(), (4, 5, 3), (3,), {}),
    (ZeroPadding2D(2), (4, 5, 3), (8, 9, 3), {}),
    (ZeroPadding2D((0, 1)), (4, 5, 3), (4, 7, 3), {}),
    (ZeroPadding2D(((1, 2), (3, 0))), (4, 5, 3), (7, 8, 3), {}),
    (Rescaling(0.5, -1), (4, 5, 3), (4, 5, 3), {}),
    (Flatten(), (4, 5, 3), (60,), {}),
    (Dense(7), (5,), (7,), {"w": (5, 7), "b": (7,)}),
    (Dense(7, "relu", use_bias=False), (5,), (7,), {"w": (5, 7)}),
    (Activation("relu"), (4, 5, 3), (4, 5, 3), {}),
    (Activation("linear"), (5,), (5,), {}),
    (Activation("leaky_relu"), (4, 5, 3), (4, 5, 3), {}),
    (Activation("elu"), (5,), (5,), {}),
    (Activation("sigmoid"), (4, 5, 3), (4, 5, 3), {}),
    (Activation("tanh"), (5,), (5,), {}),
    (Activation("softmax"), (4, 5, 3), (4, 5, 3), {}),
    (ReLU(), (5,), (5,), {}),
    (LeakyReLU(), (4, 5, 3), (4, 5, 3), {}),
    (LeakyReLU(0.0), (5,), (5,), {}),
    (ELU(), (4, 5, 3), (4, 5, 3), {}),
    (ELU(0.5), (5,), (5,), {}),
    (Dropout(0.4), (4, 5, 3), (4, 5, 3), {}),
    (BatchNormalization(0.9, 0.01), (4, 5, 3), (4, 5, 3), {"gamma": (3,), "beta": (3,)}),
    (BatchNormalization(), (5,), (5,), {"gamma": (5,), "beta": (5,)}),
    (Residual(Dense(5, use_bias=False)), (5,), (5,), {"body/dense/w": (5, 5)}),
    (Residual([Flatten()], Flatten()), (2, 3, 1), (6,), {}),
    (
        Residual(
            [Conv2D(4, 3, padding="same"), BatchNormalization(), ReLU(), Residual(Conv2D(4, 1))],
            [Conv2D(4, 1, use_bias=False), BatchNormalization()],
        ),
        (4, 5, 3),
        (4, 5, 4),
        {
            "body/conv2d/w": (3, 3, 3, 4),
            "body/conv2d/b": (4,),
            "body/batch_normalization/gamma": (4,),
            "body/batch_normalization/beta": (4,),
            "body/residual/body/conv2d/w": (1, 1, 4, 4),
            "body/residual/body/conv2d/b": (4,),
            "shortcut/conv2d/w": (1, 1, 3, 4),
            "shortcut/batch_normalization/gamma": (4,),
            "shortcut/batch_normalization/beta": (4,),
        },
    ),
]
each_layer = pytest.mark.parametrize(
    ("layer", "input_shape", "output_shape", "param_shapes"),
    LAYERS,
    ids=[f"{i}-{type(row[0]).__name__}" for i, row in enumerate(LAYERS)],
)


def derivative(f, array):
    """df/darray by central differences; `array` is changed and put back."""
    gradient = np.empty_like(array)
    for i in np.ndindex(array.shape):
        middle = array[i]
        array[i] = middle + 1e-6
        above = f()
        array[i] = middle - 1e-6
        gradient[i] = (above - f()) / 2e-6
        array[i] = middle
    return gradient


@each_layer
def test_shapes(layer, input_shape, output_shape, param_shapes, rng):
    assert layer.build(input_shape, rng) == output_shape
    assert {name: array.shape for name, array in layer.params.items()} == param_shapes
    assert {name: array.shape for name, array in layer.grads.items()} == param_shapes
    for n in 0, 1, 3:
        assert layer.forward(rng.random((n, *input_shape)), training=False).shape == (
            n,
            *output_shape,
        )
        assert layer.cache is None


@each_layer
def test_gradients(layer, input_shape, output_shape, param_shapes, rng):
    layer.build(input_shape, rng)
    x = rng.standard_normal((2, *input_shape))
    dy = rng.standard_normal((2, *output_shape))

    def loss():
        layer._rng = np.random.default_rng(5)  # Dropout's: the same mask each time
        return (layer.forward(x, training=True) * dy).sum()

    loss()
    dx = layer.backward(dy, need_dx=True)
    assert layer.cache is None
    grads = {name: grad.copy() for name, grad in layer.grads.items()}
    assert_allclose(dx, derivative(loss, x), rtol=1e-6, atol=1e-7)
    for name, grad in grads.items():
        assert_allclose(grad, derivative(loss, layer.params[name]), rtol=1e-6, atol=1e-7)


@each_layer
def test_parameters_learn_the_same_where_no_dx_is_needed(
    layer, input_shape, output_shape, param_shapes, rng
):
    layer.build(input_shape, rng)
    x, dy = rng.random((2, *input_shape)), rng.random((2, *output_shape))
    grads = []
    for need_dx in True, False:
        layer.forward(x, training=True)
        dx = layer.backward(dy, need_dx)
        grads.append([grad.copy() for grad in layer.grads.values()])
    assert not param_shapes or dx is None
    for with_dx, without in zip(*grads, strict=True):
        assert_array_equal(with_dx, without)


@each_layer
def test_config_makes_a_twin(layer, input_shape, output_shape, param_shapes):
    config = layer.get_config()
    twin = type(layer)(**config)
    assert twin is not layer
    assert twin.get_config() == config
    assert twin.build(input_shape, np.random.default_rng(0)) == output_shape


def test_conv2d_passes_every_option_on(rng):
    layer = Conv2D(6, (2, 3), (2, 1), ((1, 0), (2, 1)), (1, 2), 2, "relu")
    layer.build((6, 7, 4), rng)
    x = rng.integers(-3, 4, (2, 6, 7, 4)).astype(float)
    for array in layer.params.values():
        array[...] = rng.integers(-3, 4, array.shape)
    assert_array_equal(
        layer.forward(x, training=False),
        oracle.conv2d(
            x,
            layer.params["w"],
            layer.params["b"],
            stride=(2, 1),
            padding=((1, 0), (2, 1)),
            dilation=(1, 2),
            groups=2,
            activation="relu",
        ),
    )


def test_conv2d_transpose_passes_every_option_on(rng):
    layer = Conv2DTranspose(6, (2, 3), (2, 1), ((1, 0), (2, 1)), (1, 0), (1, 2), 2, "relu")
    layer.build((3, 6, 4), rng)
    x = rng.integers(-3, 4, (2, 3, 6, 4)).astype(float)
    for array in layer.params.values():
        array[...] = rng.integers(-3, 4, array.shape)
    assert_array_equal(
        layer.forward(x, training=False),
        oracle.conv2d_transpose(
            x,
            layer.params["w"],
            layer.params["b"],
            stride=(2, 1),
            padding=((1, 0), (2, 1)),
            output_padding=(1, 0),
            dilation=(1, 2),
            groups=2,
            activation="relu",
        ),
    )


def test_activations_are_the_functions(rng):
    x = rng.standard_normal((3, 7))
    for layer, expected in (
        (Activation("leaky_relu"), pyconv.leaky_relu(x, negative_slope=0.2)),
        (LeakyReLU(), pyconv.leaky_relu(x, negative_slope=0.3)),
        (Activation("elu"), pyconv.elu(x, alpha=1)),
        (ELU(2.0), pyconv.elu(x, alpha=2)),
        (Activation("sigmoid"), pyconv.sigmoid(x)),
        (Activation("tanh"), pyconv.tanh(x)),
        (Activation("softmax"), pyconv.softmax(x)),
        (Activation("relu"), pyconv.relu(x)),
        (Activation(None), x),
    ):
        assert_array_equal(layer.forward(x, training=False), expected)


def test_depthwise_filters_each_channel_by_itself(rng):
    layer = DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)
    layer.build((5, 6, 3), rng)
    x = rng.standard_normal((2, 5, 6, 3))
    y = layer.forward(x, training=False)
    for c in range(3):
        mine = slice(2 * c, 2 * c + 2)
        w = np.ascontiguousarray(layer.params["w"][..., mine])
        alone = pyconv.conv2d(np.ascontiguousarray(x[..., c : c + 1]), w, padding="same")
        assert_allclose(y[..., mine], alone, rtol=1e-12, atol=1e-12)


def test_zero_padding_puts_zeros_around():
    y = ZeroPadding2D(((1, 0), (0, 2))).forward(np.full((1, 1, 2, 1), 7.0), training=False)
    assert_array_equal(y[0, :, :, 0], [[0, 0, 0, 0], [7, 7, 0, 0]])


def test_dropout_drops_its_share_and_keeps_the_mean(rng):
    layer = Dropout(0.25)
    layer.build((100_000,), rng)
    x = np.full((1, 100_000), 3.0, np.float32)
    y = layer.forward(x, training=True)
    assert y.dtype == np.float32
    assert set(np.unique(y)) == {0.0, 4.0}
    # Six standard deviations of a binomial share.
    assert abs(np.mean(y == 0) - 0.25) < 6 * (0.25 * 0.75 / 100_000) ** 0.5
    assert_array_equal(layer.backward(x, need_dx=True), y)
    assert layer.forward(x, training=False) is x


def test_batch_normalization_predicts_by_moving_statistics(rng):
    layer = BatchNormalization(momentum=0.75, epsilon=0.5)
    layer.build((3,), rng)
    x = rng.standard_normal((8, 3)) + 5
    y = layer.forward(x, training=True)
    assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 0.5), rtol=1e-12, atol=1e-12)
    mean, var = 0.25 * x.mean(0), 0.75 + 0.25 * x.var(0)
    assert_allclose(layer.state["moving_mean"], mean, rtol=1e-14)
    assert_allclose(layer.state["moving_variance"], var, rtol=1e-14)
    y = layer.forward(x, training=False)
    assert_allclose(y, (x - mean) / np.sqrt(var + 0.5), rtol=1e-12)
    assert list(layer.weights) == ["gamma", "beta", "moving_mean", "moving_variance"]


def test_weights_of_a_residual_block_lie_in_the_order_of_its_layers(rng):
    block = Residual([Dense(3), BatchNormalization(), Dense(3)], [BatchNormalization()])
    block.build((3,), rng)
    norm = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert list(block.weights) == [
        "body/dense/w", "body/dense/b", *(f"body/batch_normalization/{name}" for name in norm),
        "body/dense_1/w", "body/dense_1/b",
        *(f"shortcut/batch_normalization/{name}" for name in norm),
    ]  # fmt: skip


def test_a_layer_serves_in_one_place(rng):
    norm = BatchNormalization()
    with pytest.raises(ValueError, match=r"holds at 1 a BatchNormalization .* in use"):
        Sequential([Residual(norm), norm])
    model = Sequential([Residual(Residual(Dense(3))), Dense(2)], input_shape=(3,))
    inner = model.layers[0].body[0].body[0]
    with pytest.raises(ValueError, match=r"holds at 0 a Dense .* in use"):
        Residual(inner)


@pytest.mark.parametrize("name", ["glorot", "he", "lecun"])
@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_initial_weights_have_their_variance(name, law, rng):
    variance = {"glorot": 2 / (900 + 300), "he": 2 / 900, "lecun": 1 / 900}[name]
    layer = Conv2D(100, (1, 3), kernel_initializer=f"{name}_{law}")
    layer.build((4, 4, 300), rng)
    w = layer.params["w"]
    bound = (3 if law == "uniform" else (2 / initializers.TRUNCATED_STD) ** 2) * variance
    assert np.abs(w).max() <= bound**0.5
    assert np.abs(w).max() > 0.99 * bound**0.5
    # 90,000 draws: the standard error of the variance is below 0.5%.
    assert w.var() == pytest.approx(variance, rel=0.03)
    assert abs(w.mean()) < 6 * (variance / w.size) ** 0.5


def test_grouped_filters_count_their_own_inputs(rng):
    layer = DepthwiseConv2D(5)
    layer.build((8, 8, 64), rng)
    assert 0.9 * (6 / 50) ** 0.5 < np.abs(layer.params["w"]).max() <= (6 / 50) ** 0.5


def test_bias_initializer(rng):
    layer = Dense(3, bias_initializer="ones")
    layer.build((2,), rng)
    assert_array_equal(layer.params["b"], [1, 1, 1])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Conv2D(8, 3, stride=2), TypeError, "Conv2D has no argument 'stride'.*'strides'"),
        (lambda: Conv2D(8, kernel=3), TypeError, "'kernel'; did you mean 'kernel_size'"),
        (lambda: Flatten(x=1), TypeError, "Flatten"),
        (lambda: Conv2D(8, 3, padding="sane"), ValueError, "`padding` is 'sane'.*mean 'same'"),
        (lambda: Conv2D(8, 3, padding="VALID"), ValueError, "did you mean 'valid'"),
        (lambda: Conv2D(0, 3), ValueError, "`filters` is 0"),
        (lambda: Conv2D(2.5, 3), TypeError, "`filters` is 2.5"),
        (lambda: Conv2D(8, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: Conv2D(8, 3, activation="rleu"), ValueError, "`activation`.*mean 'relu'"),
        (lambda: Dense(8, "softmax"), ValueError, "end in logits"),
        (lambda: Conv2D(8, 3, activation="tanh"), ValueError, r"put Activation\('tanh'\) behind"),
        (lambda: Activation("swish"), ValueError, "`activation` is 'swish'.*'leaky_relu'"),
        (lambda: LeakyReLU(-1), ValueError, "`negative_slope` is -1"),
        (lambda: LeakyReLU(alpha=0.1), TypeError, "LeakyReLU has no argument 'alpha'"),
        (lambda: ELU("1"), TypeError, "`alpha` is '1'"),
        (lambda: Conv2DTranspose(8, 3, output_padding=-1), ValueError, "`output_padding` is -1"),
        (lambda: Conv2DTranspose(8, 3, stride=2), TypeError, "mean 'strides'"),
        (
            lambda: Dense(8, kernel_initializer="glorot"),
            ValueError,
            "`kernel_initializer` is 'glorot'.*mean 'glorot_normal'",
        ),
        (lambda: Dropout(1), ValueError, r"`rate` is 1; expected a number in \[0, 1\)"),
        (lambda: Dropout("half"), TypeError, "`rate` is 'half'"),
        (lambda: Dropout(float("nan")), ValueError, "`rate` is nan"),
        (lambda: Rescaling(scale=None), TypeError, "`scale` is None"),
        (lambda: ZeroPadding2D(-1), ValueError, "`padding` is -1"),
        (lambda: ZeroPadding2D(((1, 2, 3), (0, 0))), ValueError, "padding"),
        (lambda: ZeroPadding2D((1, 2, 3)), ValueError, r"`padding` is \(1, 2, 3\)"),
        (lambda: MaxPooling2D(0), ValueError, "`pool_size` is 0"),
        (lambda: BatchNormalization(1), ValueError, "`momentum` is 1; expected"),
        (lambda: BatchNormalization(epsilon=-1), ValueError, "`epsilon` is -1"),
        (lambda: Residual([]), ValueError, "`body` is empty"),
        (lambda: Residual(Flatten(), []), ValueError, "`shortcut` is empty"),
        (lambda: Residual(Flatten), TypeError, "`body` is .*Flatten.*; expected a layer"),
        (lambda: Residual([Flatten]), TypeError, "holds .*Flatten.*; expected a layer"),
        (lambda: Residual([Flatten()] * 2), ValueError, "holds at 1 a Flatten .* in use"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "input_shape", "message"),
    [
        (Conv2D(8, 3), (10,), r"Conv2D takes images \(H, W, C\).*\(10,\)"),
        (GlobalAveragePooling2D(), (10,), r"takes images \(H, W, C\)"),
        (GlobalMaxPooling2D(), (10,), r"takes images \(H, W, C\)"),
        (Conv2DTranspose(8, 3), (10,), r"Conv2DTranspose takes images \(H, W, C\)"),
        (Conv2DTranspose(8, 3, groups=3), (4, 4, 4), "`groups` is 3, which must divide the 4 ch"),
        (Conv2DTranspose(8, 2, padding=5), (4, 4, 3), "`padding` 5 crops all"),
        (ZeroPadding2D(), (10,), r"takes images \(H, W, C\)"),
        (Dense(8), (4, 4, 3), r"\(4, 4, 3\); put a Flatten\(\)"),
        (Conv2D(8, 3, groups=3), (4, 4, 3), "`groups` is 3, which must divide the 3 channels"),
        (Conv2D(8, 3, groups=2), (4, 4, 3), "`groups` is 2, which must divide the 3 channels"),
        (Conv2D(8, 5), (4, 4, 3), "5x5.*4x4"),
        (MaxPooling2D(5), (4, 4, 3), "5x5.*4x4"),
        (Residual(Conv2D(8, 5)), (4, 4, 3), "body: layer conv2d: .*5x5.*4x4"),
        (Residual(Conv2D(4, 1)), (4, 4, 3), r"\(4, 4, 4\), and `shortcut`, which gives \(4, 4, 3\)"),
    ],
)
def test_inputs_that_do_not_suit(layer, input_shape, message, rng):
    with pytest.raises(ValueError, match=message):
        layer.build(input_shape, rng)
