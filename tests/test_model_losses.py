"""Losses in Sequential: labels, weights, metrics and predictions by loss, saved and loaded."""

import re

import numpy as np
import pytest
from networks import SHAPE, bright_corners
from numpy.testing import assert_allclose, assert_array_equal

import pyconv
from pyconv import losses
from pyconv.layers import (
    Activation,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Flatten,
    GlobalMaxPooling2D,
    MaxPooling2D,
)
from pyconv.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from pyconv.model import Sequential, load_model
from pyconv.optimizers import SGD


@pytest.fixture
def data():
    return bright_corners()


def model_for(loss, outputs=3, rate=0.1, **options):
    model = Sequential([Flatten(), Dense(outputs)], input_shape=SHAPE, seed=2, dtype="float64")
    model.compile(SGD(rate), loss, **options)
    return model


def scaled(x):
    return x / 255.0 - 0.5


# Every loss trains, by its own labels


def test_default_loss_is_softmax_cross_entropy():
    model = Sequential([Dense(2)])
    model.compile()
    assert type(model.loss) is SoftmaxCrossEntropy
    assert model.metrics == ("accuracy",)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_one_yes_or_no_an_example(shape, data):
    x, y = scaled(data[0]), (data[1] == 2)
    model = model_for("binary_cross_entropy", 1)
    before = model.evaluate(x, y.reshape(shape))
    history = model.fit(x, y.reshape(shape), epochs=60, verbose=0).history
    loss, accuracy = model.evaluate(x, y.reshape(shape), batch_size=7)
    assert loss < 0.3 < before[0]
    assert accuracy == history["accuracy"][-1] == 1.0
    logits = model.predict(x)
    assert loss == pytest.approx(np.mean(np.log1p(np.exp(np.where(y[:, None], -logits, logits)))))
    assert_array_equal(model.predict_classes(x)[:, 0], y)
    assert_allclose(model.predict_proba(x), 1 / (1 + np.exp(-logits)))


def test_every_pixel_has_an_answer(data):
    """A network that draws: down by pooling, up by a transposed convolution."""
    x = scaled(data[0])
    masks = (x.mean(axis=3, keepdims=True) > 0).astype(np.uint8)
    layers = [
        Conv2D(8, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Conv2DTranspose(8, 4, 2, "same", activation="relu"),
        Conv2D(1, 3, padding="same"),
    ]
    model = Sequential(layers, input_shape=SHAPE, seed=0)
    model.compile("adam", "binary_cross_entropy")
    before, _ = model.evaluate(x, masks)
    history = model.fit(x, masks, epochs=15, batch_size=10, verbose=0).history
    loss, accuracy = model.evaluate(x, masks)
    assert loss < before
    assert accuracy == np.mean((model.predict(x) > 0) == masks)
    assert 0.5 < history["accuracy"][-1] <= 1


def test_numbers_to_be_near(data):
    x = scaled(data[0])
    targets = np.stack([x[:, :4].mean((1, 2, 3)), x[:, 4:].mean((1, 2, 3))], axis=1)
    model = model_for("mean_squared_error", 2, rate=0.01)
    assert model.metrics == ()
    history = model.fit(x, targets, epochs=30, validation_data=(x, targets), verbose=0).history
    assert list(history) == ["loss", "val_loss"]
    (loss,) = model.evaluate(x, targets)
    assert loss == pytest.approx(np.mean((model.predict(x) - targets) ** 2))
    assert history["val_loss"][-1] == pytest.approx(loss)
    assert loss < history["loss"][0] / 2


def test_one_step_of_each_loss_is_gradient_descent(rng):
    x = rng.random((4, 3))
    for loss, labels, function in (
        ("softmax_cross_entropy", np.array([1, 0, 1, 1]), pyconv.softmax_cross_entropy),
        ("binary_cross_entropy", rng.integers(2, size=(4, 2)), pyconv.binary_cross_entropy),
        ("mean_squared_error", rng.random((4, 2)), pyconv.mean_squared_error),
    ):
        model = Sequential([Dense(2)], input_shape=(3,), seed=0, dtype="float64")
        model.compile(SGD(0.5), loss)
        w, b = model.get_weights()
        expected, dy = function(x @ w + b, labels)
        assert model.train_on_batch(x, labels) == pytest.approx(expected)
        assert_allclose(model.get_weights()[0], w - 0.5 * x.T @ dy)
        assert_allclose(model.get_weights()[1], b - 0.5 * dy.sum(axis=0))


def test_rows_of_probabilities_are_labels_too(data, rng):
    x, y = scaled(data[0]), rng.dirichlet(np.ones(3), 50)
    for rows in y, y.astype(np.float32):
        model = model_for("softmax_cross_entropy")
        loss, accuracy = model.evaluate(x, rows)
        expected, _ = pyconv.softmax_cross_entropy(model.predict(x), rows)
        assert loss == pytest.approx(expected)
        assert accuracy == np.mean(model.predict_classes(x) == rows.argmax(axis=1))
    model.fit(x, y, epochs=20, verbose=0)
    assert model.evaluate(x, y)[0] < loss


# Options and weights


def test_options_of_a_loss_reach_it(data):
    x, y = scaled(data[0]), data[1]
    model = model_for(SoftmaxCrossEntropy(label_smoothing=0.2))
    expected, _ = pyconv.softmax_cross_entropy(model.predict(x), y, label_smoothing=0.2)
    assert model.evaluate(x, y)[0] == pytest.approx(expected)
    model = model_for(BinaryCrossEntropy(label_smoothing=0.2), 1)
    expected, _ = pyconv.binary_cross_entropy(
        model.predict(x), (y == 0)[:, None], label_smoothing=0.2
    )
    assert model.evaluate(x, y == 0)[0] == pytest.approx(expected)


def test_weights_by_example_and_by_class(data, rng):
    x, y = scaled(data[0]), data[1]
    sample_weight, class_weight = rng.uniform(0, 2, 50), {0: 3.0, 2: 0.5}
    together = sample_weight * np.array([3.0, 1.0, 0.5])[y]
    model, by_hand = model_for("softmax_cross_entropy"), model_for("softmax_cross_entropy")
    model.fit(x, y, sample_weight=sample_weight, class_weight=class_weight, epochs=2, verbose=0)
    by_hand.fit(x, y, sample_weight=together, epochs=2, verbose=0)
    assert_array_equal(model.parameters, by_hand.parameters)
    loss, _ = model.evaluate(x, y, sample_weight=together, batch_size=7)
    expected, _ = pyconv.softmax_cross_entropy(model.predict(x), y, sample_weight=together)
    assert loss == pytest.approx(expected)
    on_batch = model_for("softmax_cross_entropy")
    assert on_batch.train_on_batch(
        x, y, sample_weight=sample_weight, class_weight=[3.0, 1.0, 0.5]
    ) == pytest.approx(
        pyconv.softmax_cross_entropy(
            model_for("softmax_cross_entropy").predict(x), y, sample_weight=together
        )[0]
    )


def test_binary_labels_have_class_weights(data):
    x, y = scaled(data[0]), data[1] == 1
    model, by_hand = model_for("binary_cross_entropy", 1), model_for("binary_cross_entropy", 1)
    model.fit(x, y, class_weight={1: 4.0}, verbose=0)
    by_hand.fit(x, y, sample_weight=np.where(y, 4.0, 1.0), verbose=0)
    assert_array_equal(model.parameters, by_hand.parameters)


def test_weights_follow_their_examples(data, rng):
    """Through shuffling and a validation split."""
    x, y, weights = scaled(data[0]), data[1], rng.uniform(0, 2, 50)
    order = rng.permutation(40)
    split, by_hand = model_for("softmax_cross_entropy"), model_for("softmax_cross_entropy")
    history = split.fit(
        x, y, sample_weight=weights, validation_split=0.2, shuffle=lambda epoch: order,
        batch_size=15, verbose=0,
    ).history  # fmt: skip
    first = x[:40][order], y[:40][order]
    last = (x[40:], y[40:], weights[40:])
    expected = by_hand.fit(
        *first, sample_weight=weights[:40][order], validation_data=last, shuffle=False,
        batch_size=15, verbose=0,
    ).history  # fmt: skip
    assert_array_equal(split.parameters, by_hand.parameters)
    assert history == expected


def test_a_weight_of_zero_leaves_an_example_out(data):
    x, y = scaled(data[0]), data[1]
    model, by_hand = model_for("softmax_cross_entropy"), model_for("softmax_cross_entropy")
    model.train_on_batch(x, y, sample_weight=(np.arange(50) < 25) * 2.0)
    by_hand.train_on_batch(x[:25], y[:25])
    assert_allclose(model.parameters, by_hand.parameters, rtol=1e-12)


# Files


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(label_smoothing=0.1),
        BinaryCrossEntropy(label_smoothing=0.3),
        MeanSquaredError(),
    ],
)
def test_losses_are_saved_with_their_options(loss, tmp_path):
    model = model_for(loss, metrics=())
    model.save(tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    assert type(loaded.loss) is type(loss)
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.metrics == ()


def test_foreign_losses_cannot_be_saved(tmp_path):
    class Mine(SoftmaxCrossEntropy):
        pass

    model = model_for(Mine())
    with pytest.raises(TypeError, match=r"Mine.*is no loss of pyconv"):
        model.save(tmp_path / "model.h5")


# What they refuse

IMAGES = np.zeros((4, *SHAPE))


@pytest.mark.parametrize(
    ("loss", "use", "error", "message"),
    [
        ("binary_cross_entropy", lambda m: m.fit(IMAGES, np.zeros(4)), ValueError,
         "`y` has shape (4,); the loss 'binary_cross_entropy' compares it with the network's "
         "outputs, of shape (4, 3)"),
        ("binary_cross_entropy", lambda m: m.fit(IMAGES, np.full((4, 3), 2)), ValueError,
         "`y` reaches from 2 to 2; the loss 'binary_cross_entropy' takes numbers from 0 to 1"),
        ("binary_cross_entropy", lambda m: m.fit(IMAGES, np.full((4, 3), np.nan)), ValueError,
         "`y` reaches from nan to nan"),
        ("mean_squared_error", lambda m: m.fit(IMAGES, np.zeros((4, 2))), ValueError,
         "`y` has shape (4, 2); the loss 'mean_squared_error' compares it"),
        ("mean_squared_error", lambda m: m.fit(IMAGES, [["a"] * 3] * 4), TypeError,
         "`y` has dtype <U1; expected numbers"),
        ("mean_squared_error", lambda m: m.predict_proba(IMAGES), ValueError,
         "the loss 'mean_squared_error' gives outputs no meaning as probabilities"),
        ("mean_squared_error", lambda m: m.predict_classes(IMAGES), ValueError, "as classes"),
        ("mean_squared_error", lambda m: m.fit(IMAGES, IMAGES[:, :3, 0, 0], class_weight={0: 1}),
         ValueError, "`class_weight` is for losses that tell classes, and 'mean_squared_error'"),
        ("binary_cross_entropy",
         lambda m: m.fit(IMAGES, np.zeros((4, 3)), class_weight={0: 1}), ValueError,
         "'binary_cross_entropy' with outputs of shape (3,) does not; give `sample_weight`"),
        ("softmax_cross_entropy",
         lambda m: m.fit(IMAGES, [0, 1, 2, 0], class_weight={3: 1.0}), ValueError,
         "`class_weight` names the class 3; expected 0 to 2"),
        ("softmax_cross_entropy",
         lambda m: m.fit(IMAGES, [0, 1, 2, 0], sample_weight=[1, 2]), ValueError,
         "`sample_weight` has shape (2,) and dtype int64; expected (4,)"),
        ("softmax_cross_entropy",
         lambda m: m.fit(IMAGES, [0] * 4, validation_data=(IMAGES, [0] * 4, [1])), ValueError,
         "validation_data: `sample_weight` has shape (1,)"),
        ("softmax_cross_entropy",
         lambda m: m.fit(IMAGES, [0] * 4, validation_data=(IMAGES,)), TypeError,
         "`validation_data` must be a pair (x, y), or (x, y, sample_weight)"),
        ("softmax_cross_entropy", lambda m: m.compile(loss="mse"), ValueError,
         "`loss` is 'mse', which is unknown; did you mean"),
        ("softmax_cross_entropy", lambda m: m.compile(loss=SoftmaxCrossEntropy), ValueError,
         "`loss` is <class 'pyconv.losses.SoftmaxCrossEntropy'>, which is unknown"),
        ("softmax_cross_entropy", lambda m: SoftmaxCrossEntropy(smoothing=1), TypeError,
         "SoftmaxCrossEntropy has no argument 'smoothing'; did you mean 'label_smoothing'"),
        ("softmax_cross_entropy", lambda m: BinaryCrossEntropy(1.0), ValueError,
         "`label_smoothing` is 1.0; expected a number in [0, 1)"),
        ("mean_squared_error", lambda m: m.compile(loss="mean_squared_error",
                                                   metrics=["accuracy"]), ValueError,
         "`metrics` is 'accuracy', which is unknown; there is none to give"),
    ],
)  # fmt: skip
def test_bad_use(loss, use, error, message):
    with pytest.raises(error, match=re.escape(message)):
        use(model_for(loss))


@pytest.mark.parametrize(
    ("activation", "loss"),
    [("softmax", "softmax_cross_entropy"), ("sigmoid", "binary_cross_entropy")],
)
def test_a_loss_of_logits_refuses_a_network_that_applies_its_activation(activation, loss):
    model = Sequential([GlobalMaxPooling2D(), Dense(2), Activation(activation)])
    with pytest.raises(ValueError, match=f"ends in '{activation}', which the loss '{loss}' applies"):
        model.compile(loss=loss)
    model.compile(loss="mean_squared_error")


def test_every_loss_has_a_name():
    assert {name: type(losses.get(name)) for name in losses.LOSSES} == losses.LOSSES
