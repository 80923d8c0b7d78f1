"""Layers computed as one: the same training bit for bit, the same predictions up to rounding."""

import numpy as np
import pytest
from networks import network
from numpy.testing import assert_array_equal

from pyconv import _dispatch, zoo
from pyconv.fusion import ResidualStep, WeightedNorm
from pyconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
    Residual,
)
from pyconv.model import Sequential
from pyconv.program import Arena, Program


def twins(layers, input_shape, dtype="float32"):
    """Two compiled models with the same weights: fused, and not."""
    models = []
    for fuse in True, False:
        new = [type(layer)(**layer.get_config()) for layer in layers]
        model = Sequential(new, input_shape=input_shape, seed=2, dtype=dtype, fuse=fuse)
        model.compile()
        models.append(model)
    return models


def trained(models, rng, steps=4):
    x = rng.standard_normal((7, *models[0].input_shape)).astype(models[0].dtype)
    labels = rng.integers(0, models[0].output_shape[0], 7)
    for model in models:
        for _ in range(steps):
            model.train_on_batch(x, labels)
    return x


def computed(step, x):
    """What a step makes of x in prediction."""
    program = Program(_dispatch.active.modules[x.dtype.char], x.dtype, False, Arena())
    program.finish(step.plan(program, program.input(x.shape)))
    return program.forward(x, 2).copy()


def test_training_is_the_same_bit_for_bit(dtype, isa, rng):
    fused, apart = twins(network("residual").layers, (16, 16, 3), dtype.name)
    assert len(fused._spans) < len(apart._spans) == len(apart.layers)
    trained((fused, apart), rng)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        assert_array_equal(a, b)


def sizes(step, x):
    """The bound of `test_predictions`, but for eps: what is summed, and how often it is rounded.

    A sum of n products and a bias is rounded n times (n + 1 unfused), and three times more behind it;
    a weight's scale twice, the product of both once.
    """
    layer, norm = step.layer, step.norm
    absolute = {name: abs(array.astype(np.float64)) for name, array in layer.params.items()}
    twin = type(layer)(**layer.get_config())
    twin.build(x.shape[1:], np.random.default_rng(0))
    twin.bind(absolute, twin.grads, {})
    scale = abs(norm.params["gamma"]) / np.sqrt(norm.state["moving_variance"] + norm.epsilon)
    sums = twin.forward(abs(x.astype(np.float64)), training=False) + abs(norm.state["moving_mean"])
    n = layer.params["w"].size // layer.params["w"].shape[-1]
    return (2 * n + 12) * (sums * scale + abs(norm.params["beta"]))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "layer",
    [Conv2D(5, 3, 2, "same"), Conv2D(6, 2, groups=2, use_bias=False), DepthwiseConv2D(3), Dense(7)],
    ids=["conv", "grouped", "depthwise", "dense"],
)
def test_predictions(layer, relu, pool, dtype, isa, direct, rng):
    if pool and isinstance(layer, Dense):
        pool = False
    first = [Flatten()] if isinstance(layer, Dense) else []
    layers = [*first, layer, BatchNormalization(0.5), *[ReLU()] * relu, *[MaxPooling2D(2)] * pool]
    fused, apart = twins([*layers, Flatten(), Dense(3)], (9, 10, 4), dtype.name)
    x = trained((fused, apart), rng)
    apart.set_weights(fused.get_weights())
    at = len(first)
    x = x.reshape(7, -1) if first else x
    step = fused._spans[at][0]
    assert isinstance(step, WeightedNorm)
    one = computed(step, x)
    bound, other = sizes(step, x), x
    for part in apart.layers[at : at + 2 + relu]:
        other = part.forward(other, training=False)
    if pool:  # the maximum is off by at most the largest error in the window
        bound = MaxPooling2D(2).forward(np.ascontiguousarray(bound, np.float64), training=False)
        other = MaxPooling2D(2).forward(other, training=False)
    assert not np.array_equal(one, np.zeros_like(one))
    assert np.all(abs(one.astype(float) - other) <= np.finfo(dtype).eps * bound)


@pytest.mark.parametrize("pool", [2, 3, 4, 8])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("filters, kernel", [(3, 5), (6, 5), (8, 3), (16, 3), (40, 3), (24, 2)])
def test_a_prediction_needs_no_places(filters, kernel, relu, pool, dtype, isa, rng):
    """Outputs of a fused max pool are those of a training pass, which keeps where they were."""
    layer = Conv2D(filters, kernel, padding="same", activation="relu" if relu else None)
    model = Sequential([layer, MaxPooling2D(pool)], input_shape=(28, 26, 2), seed=1, dtype=dtype)
    model.parameters[:] = rng.integers(-2, 3, len(model.parameters))
    x = rng.integers(-3, 4, (3, *model.input_shape)).astype(dtype)
    assert_array_equal(model.predict(x), model.forward(x, training=True))
    x[1, 9, 11, 0], x[2, 3, 4, 1] = np.nan, np.inf
    assert_array_equal(model.predict(x), model.forward(x, training=True))


def test_what_is_written_to_weights_is_seen(rng):
    fused, apart = twins(zoo.resnet20(3, (8, 8, 3)).layers, (8, 8, 3), "float64")
    x = trained([fused], rng, steps=2)
    before = fused.predict(x)
    fused.layers[1].params["gamma"] *= 2
    fused.layers[1].state["moving_mean"] += 0.5
    fused.parameters[:400] *= 0.5
    apart.set_weights(fused.get_weights())
    assert abs(fused.predict(x) - before).max() > 1e-3
    np.testing.assert_allclose(fused.predict(x), apart.predict(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        ([Conv2D(3, 1), BatchNormalization()], True),
        ([BatchNormalization()], True),
        ([Conv2D(3, 1), BatchNormalization(), ReLU()], False),
        ([Conv2D(3, 1), BatchNormalization(), MaxPooling2D(1)], False),
        ([BatchNormalization(), Conv2D(3, 1)], False),
        ([Residual([BatchNormalization()])], False),
    ],
)
@pytest.mark.parametrize("relu", [False, True])
def test_the_sum_joins_a_normalization_at_the_end(body, joined, relu, rng):
    body = [type(layer)(**layer.get_config()) for layer in body]
    layers = [Residual(body), *[ReLU()] * relu, GlobalAveragePooling2D(), Dense(2)]
    fused, apart = twins(layers, (4, 5, 3))
    step = fused._spans[0][0]
    assert isinstance(step, ResidualStep)
    assert step.joined is joined
    x = trained((fused, apart), rng)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        assert_array_equal(a, b)
    np.testing.assert_allclose(fused.predict(x), apart.predict(x), rtol=1e-4, atol=1e-5)


def test_a_normalization_adds_up_the_gradients_of_two_readers(rng):
    def block(*before):
        return Residual([*before, Conv2D(3, 1), BatchNormalization()])

    layers = [Conv2D(3, 1), block(), ReLU(), block(), ReLU(), block(block()), ReLU(), block(),
              GlobalAveragePooling2D(), Dense(2)]
    fused, apart = twins(layers, (4, 5, 3))
    program, _ = fused._programs.borrow((2, 4, 5, 3), True)
    # Behind the first convolution, and inside the third block, whose own input had two readers already.
    assert sum(type(operation).__name__ == "Fork" for operation in program._operations) == 2
    trained((fused, apart), rng)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        assert_array_equal(a, b)


def test_summary_shows_what_is_fused(capsys):
    layers = [
        Conv2D(4, 3), BatchNormalization(), ReLU(), MaxPooling2D(2),
        Residual([Conv2D(4, 1), BatchNormalization()], [BatchNormalization()]), ReLU(),
    ]  # fmt: skip
    fused, apart = twins(layers, (6, 6, 2))
    fused.summary()
    lines = capsys.readouterr().out.splitlines()[2:-2]
    assert [(line.split()[0], line.partition("  fused")[2]) for line in lines if line[0] != " "] == [
        ("conv2d", ""),
        ("batch_normalization", " into conv2d"),
        ("re_lu", " into conv2d"),
        ("max_pooling2d", " into conv2d"),
        ("residual", ""),
        ("re_lu_1", " into residual"),
    ]
    assert lines[4].endswith("sum fused into body/batch_normalization")
    assert [line.split()[0] for line in lines if line[0] == " "] == [
        "body/conv2d", "body/batch_normalization", "shortcut/batch_normalization",
    ]  # fmt: skip
    assert lines[6].endswith("fused into conv2d")
    apart.summary()
    out = capsys.readouterr().out
    assert "fused" not in out
    assert out.endswith("Parameters: 120 (0.5 KiB), and 24 numbers that are not trained\n")
