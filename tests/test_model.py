"""Sequential: gradients of whole models, training, prediction, and what it refuses."""

import re
import threading

import numpy as np
import pytest
from networks import NETWORKS, SHAPE, bright_corners, network, small
from numpy.testing import assert_allclose, assert_array_equal

import pyconv
from pyconv import _examples, zoo
from pyconv.layers import Conv2D, Dense, Flatten
from pyconv.model import Sequential
from pyconv.optimizers import SGD, Adam, AdamW, RMSprop


@pytest.fixture
def data():
    return bright_corners()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_whole_models(name, rng):
    model = network(name, "float64")
    x, labels = rng.standard_normal((4, 16, 16, 3)), np.array([0, 2, 1, 2])
    model.parameters += rng.normal(0, 0.1, model.parameters.shape)  # biases of 0 sit on ReLU's kink

    def loss():
        return pyconv.softmax_cross_entropy(model.forward(x, training=True), labels)[0]

    _, dlogits = pyconv.softmax_cross_entropy(model.forward(x, training=True), labels)
    model.backward(dlogits)
    for layer in model.layers[-3:]:
        assert all(each.cache is None for each in (layer, *layer.inner))
    p = model.parameters
    some = rng.choice(p.size, min(p.size, 60), replace=False)
    differences = []
    for i in some:
        middle = p[i]
        p[i] = middle + 1e-6
        above = loss()
        p[i] = middle - 1e-6
        differences.append((above - loss()) / 2e-6)
        p[i] = middle
    assert_allclose(model.gradients[some], differences, rtol=1e-5, atol=1e-8)


def test_one_step_is_gradient_descent(rng):
    model = Sequential([Dense(2)], input_shape=(3,), seed=0, dtype="float64")
    model.compile(SGD(0.5))
    x, labels = rng.random((4, 3)), np.array([0, 1, 1, 0])
    w, b = model.get_weights()
    expected_loss, dy = pyconv.softmax_cross_entropy(x @ w + b, labels)
    assert model.train_on_batch(x, labels) == pytest.approx(expected_loss)
    assert_allclose(model.get_weights()[0], w - 0.5 * x.T @ dy)
    assert_allclose(model.get_weights()[1], b - 0.5 * dy.sum(axis=0))


@pytest.mark.parametrize(
    "optimizer", [SGD(0.3), SGD(0.05, 0.9, True), Adam(0.01), AdamW(0.01), RMSprop(0.005)]
)
def test_overfits_a_few_examples(optimizer, data):
    x, y = data
    model = small(optimizer=optimizer)
    history = model.fit(x, y, batch_size=10, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.05 < history["loss"][0]
    assert history["accuracy"][-1] == 1.0
    assert model.evaluate(x, y)[1] == 1.0


def test_layers_hold_views_of_the_flat_buffers(data):
    model = small()
    model.train_on_batch(*data)
    for flat, name in (model.parameters, "params"), (model.gradients, "grads"):
        parts = [array for layer in model.layers for array in getattr(layer, name).values()]
        assert all(np.shares_memory(part, flat) for part in parts)
        assert_array_equal(np.concatenate([part.ravel() for part in parts]), flat)
    assert [w.shape for w in model.get_weights()] == [(3, 3, 2, 4), (4,), (64, 3), (3,)]


# Labels


def test_forms_of_labels_train_alike(data):
    x, y = data
    weights = []
    one_hot = np.eye(3)[y]
    for labels in y, y.reshape(-1, 1), one_hot, one_hot.astype(bool), y.astype(float), list(y):
        model = small()
        model.fit(x, labels, epochs=2, verbose=0, validation_data=(x, labels))
        weights.append(model.parameters)
    for other in weights[1:]:
        assert_array_equal(other, weights[0])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.arange(1, 5), ValueError, "from 1 to 4; a network of 3 outputs takes 0 to 2"),
        (np.array([0, -1, 2, 1]), ValueError, "from -1 to 2"),
        (np.array([0, 0.5, 1, 2]), ValueError, "`y` holds 0.5"),
        (np.array([0, np.nan, 1, 2]), ValueError, "from nan to nan"),
        (np.eye(4)[:, :3], ValueError, "row 3 .*a single 1"),
        (np.full((4, 3), 1 / 2), ValueError, "row 0 .*a single 1"),
        (np.array([[1.5, -0.5, 0]] * 4), ValueError, "row 0 .*a single 1"),
        (np.eye(3, 4), ValueError, r"\(3, 4\).*Give y.T"),
        (np.zeros((1, 4), int), ValueError, r"\(1, 4\).*Give y.T"),
        (np.zeros(3, int), ValueError, r"`y` has shape \(3,\); for 4 examples"),
        (["a", "b", "c", "d"], TypeError, "`y` has dtype <U1"),
    ],
)
def test_bad_labels(labels, error, message):
    model = small()
    with pytest.raises(error, match=message):
        model.fit(np.zeros((4, *SHAPE)), labels, verbose=0)
    assert model.optimizer.iterations == 0


# Data and batches


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16", "float32", "float64"])
@pytest.mark.parametrize("model_dtype", ["float32", "float64"])
def test_any_type_of_numbers(dtype, model_dtype, data):
    x, y = data[0].astype(dtype), data[1]
    model, reference = small(dtype=model_dtype), small(dtype=model_dtype)
    kept = x.copy()
    model.fit(x, y, epochs=1, verbose=0)
    reference.fit(x.astype(model_dtype), y, epochs=1, verbose=0)
    assert_array_equal(model.parameters, reference.parameters)
    assert_array_equal(x, kept)
    assert model.predict(x).dtype == model_dtype


def test_any_layout(data):
    x, y = data
    wide = np.zeros((100, 8, 8, 4), np.uint8)
    wide[::2, :, :, ::2] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    results = []
    for same in x, wide[::2, :, :, ::2], np.asfortranarray(x), readonly, x.tolist():
        model = small()
        model.fit(same, y, verbose=0)
        results.append(model.predict(same))
    for other in results[1:]:
        assert_array_equal(other, results[0])


def test_metrics_are_means_over_the_examples(data):
    """A rate of 0: the epoch's means are those of an evaluation, whatever the batches."""
    x, y = data
    model = small(optimizer=SGD(0.0))
    history = model.fit(x, y, batch_size=16, validation_data=(x, y), verbose=0).history
    loss, accuracy = model.evaluate(x, y, batch_size=7)
    assert accuracy == history["accuracy"][0] == history["val_accuracy"][0]
    assert accuracy == np.mean(model.predict_classes(x) == y)
    for value in history["loss"][0], history["val_loss"][0]:
        assert value == pytest.approx(loss, rel=1e-5)
    expected = -np.log(model.predict_proba(x)[np.arange(50), y]).mean()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_without_metrics(data):
    model = small()
    model.compile(metrics=())
    assert list(model.fit(*data, verbose=0).history) == ["loss"]
    assert len(model.evaluate(*data)) == 1


def test_order_of_examples(data):
    """`shuffle` decides which rows a minibatch holds; the rest of the training is the same."""
    x, y = data
    order = np.random.default_rng(0).permutation(50)
    by_callable, by_hand, unshuffled = small(), small(), small()
    by_callable.fit(x, y, batch_size=20, shuffle=lambda epoch: order, verbose=0)
    for start in 0, 20, 40:
        rows = order[start : start + 20]
        by_hand.train_on_batch(x[rows], y[rows])
    unshuffled.fit(x[order], y[order], batch_size=20, shuffle=False, verbose=0)
    assert_array_equal(by_callable.parameters, by_hand.parameters)
    assert_array_equal(by_callable.parameters, unshuffled.parameters)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i2", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (200, 300, 1)])  # the last: more than one thread's
def test_minibatch(shape, dtype, num_threads, isa, rng):
    x = rng.integers(0, 2, (7, *shape)).astype(dtype)
    rows = np.array([6, 0, 3, 3])
    out = np.ones((5, *shape), dtype)
    got = _examples.minibatch(x, rows, out, num_threads)
    assert_array_equal(got, x[rows])
    assert_array_equal(out[4:], np.ones((1, *shape), dtype))


def test_shuffle_is_asked_for_each_epoch(data):
    epochs = []

    def shuffle(epoch):
        epochs.append(epoch)
        return list(range(50))

    small().fit(*data, epochs=5, initial_epoch=2, shuffle=shuffle, verbose=0)
    assert epochs == [2, 3, 4]


def test_seed_makes_everything_reproducible(data):
    first, same, other = small(7, dropout=0.3), small(7, dropout=0.3), small(8, dropout=0.3)
    assert_array_equal(first.parameters, same.parameters)
    assert (first.parameters != other.parameters).any()
    for model in first, same:
        model.fit(*data, epochs=2, verbose=0)
    assert_array_equal(first.parameters, same.parameters)


def test_validation_split_keeps_the_last_examples_out(data):
    x, y = data
    split, by_hand = small(), small()
    history = split.fit(x, y, epochs=2, validation_split=0.2, verbose=0).history
    expected = by_hand.fit(
        x[:40], y[:40], epochs=2, validation_data=(x[40:], y[40:]), verbose=0
    ).history
    assert history == expected
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]


def test_no_epochs(data):
    model = small()
    before = model.get_weights()
    assert model.fit(*data, epochs=0, verbose=0).history == {}
    assert_array_equal(model.get_weights()[0], before[0])


# Prediction


def test_predictions_agree(data):
    x, _ = data
    model = small()
    logits = model.predict(x, batch_size=7)
    assert logits.shape == (50, 3)
    assert_allclose(logits, model.predict_on_batch(x), rtol=1e-5, atol=1e-6)
    assert_array_equal(model.predict_classes(x), logits.argmax(axis=1))
    assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(model.predict_proba(x).argmax(axis=1), model.predict_classes(x))


def test_predict_nothing():
    model = small()
    assert model.predict(np.zeros((0, *SHAPE))).shape == (0, 3)
    assert model.predict_proba(np.zeros((0, *SHAPE))).shape == (0, 3)
    assert model.predict_classes(np.zeros((0, *SHAPE))).shape == (0,)


def test_dropout_is_only_for_training(data):
    model = small(dropout=0.5)
    assert_array_equal(model.predict(data[0]), model.predict(data[0]))


def test_threads_predict_with_one_model(data):
    x, _ = data
    model = small()
    parts = [x[i::5] for i in range(5)]
    expected = [model.predict(part, batch_size=3) for part in parts]
    wrong = []

    def work(part, result):
        for _ in range(20):
            if not np.array_equal(model.predict(part, batch_size=3), result):
                wrong.append(part)

    threads = [
        threading.Thread(target=work, args=args) for args in zip(parts, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(layer.cache is None for layer in model.layers)


def test_shape_is_taken_from_the_first_data(rng):
    late = Sequential([Conv2D(2, 3), Flatten(), Dense(2)], seed=4)
    early = Sequential([Conv2D(2, 3), Flatten(), Dense(2)], seed=4, input_shape=(5, 5, 1))
    x = rng.random((3, 5, 5, 1))
    assert_array_equal(late.predict(x), early.predict(x))
    assert late.output_shape == (2,)


# Zoo, summary, progress


def test_signs_convnet_is_the_assignment_s():
    model = zoo.signs_convnet(seed=1)
    assert model.count_params() == 1286
    assert [layer.output_shape for layer in model.layers] == [
        (64, 64, 8),
        (8, 8, 8),
        (8, 8, 16),
        (2, 2, 16),
        (64,),
        (6,),
    ]
    assert not model.compiled
    with pytest.raises(TypeError, match=r"signs_convnet has no argument 'classes'.*'num_classes'"):
        zoo.signs_convnet(classes=6)


def test_lenet5_has_the_paper_s_sizes():
    model = zoo.lenet5()
    assert [layer.output_shape for layer in model.layers] == [
        (28, 28, 6),
        (14, 14, 6),
        (10, 10, 16),
        (5, 5, 16),
        (400,),
        (120,),
        (84,),
        (10,),
    ]
    assert model.count_params() == 61_706


def test_summary(capsys):
    zoo.signs_convnet().summary()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "d (" in line or "dense" in line] == [
        ["conv2d", "(Conv2D)", "(None,", "64,", "64,", "8)", "384"],
        ["max_pooling2d", "(MaxPooling2D)", "(None,", "8,", "8,", "8)", "0", "fused", "into", "conv2d"],
        ["dense", "(Dense)", "(None,", "6)", "390"],
    ]
    assert lines[-1] == "Parameters: 1,286 (5.0 KiB)"


@pytest.mark.parametrize("verbose", ["auto", 2])
def test_lines_where_there_is_no_terminal(verbose, data, capsys):
    small().fit(*data, epochs=2, validation_data=data, verbose=verbose)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    logs = " - ".join(rf"{name}: \S+" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
    assert re.fullmatch(rf"Epoch 2/2 - \d+\.\d\ds - {logs}", lines[1])


def test_progress_bar(data, capsys):
    small().fit(*data, batch_size=10, epochs=2, verbose=1)
    out, err = capsys.readouterr()
    assert err == ""
    for epoch in "Epoch 1/2: 100%", "Epoch 2/2: 100%":
        assert epoch in out
    assert re.search(r"5/5 .*loss: \S+ - accuracy: ", out)


def test_progress_bar_on_a_terminal(data, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    small().fit(*data)
    assert "100%" in capsys.readouterr().out


def test_silence(data, capsys):
    small().fit(*data, verbose=0)
    assert capsys.readouterr() == ("", "")


# What it refuses

IMAGES, LABELS = np.zeros((4, *SHAPE)), np.zeros(4, int)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda m: m.fit(IMAGES, LABELS, batchsize=2), TypeError, "fit has no.*'batch_size'"),
        (lambda m: m.fit(IMAGES, LABELS, batch_size=0), ValueError, "`batch_size` is 0"),
        (lambda m: m.fit(IMAGES, LABELS, epochs=1.5), TypeError, "`epochs` is 1.5"),
        (lambda m: m.fit(IMAGES, LABELS, verbose=3), ValueError, "`verbose` is 3"),
        (lambda m: m.fit(IMAGES, LABELS, callbacks=[print]), TypeError, "`callbacks` holds"),
        (lambda m: m.fit(IMAGES, LABELS, validation_data=IMAGES), TypeError, r"pair \(x, y\)"),
        (
            lambda m: m.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS[1:])),
            ValueError,
            r"validation_data: `y` has shape \(3,\)",
        ),
        (
            lambda m: m.fit(
                IMAGES, LABELS, validation_data=(IMAGES, LABELS), validation_split=0.5
            ),
            ValueError,
            "either `validation_data` or `validation_split`",
        ),
        (lambda m: m.fit(IMAGES, LABELS, validation_split=1), ValueError, "validation_split` is 1"),
        (lambda m: m.fit(IMAGES, LABELS, validation_split=0.9), ValueError, "leaves 0 of 4"),
        (
            lambda m: m.fit(IMAGES, LABELS, shuffle=lambda epoch: [0, 1, 2, 2], verbose=0),
            ValueError,
            r"`shuffle` gave for epoch 0 .* no permutation of range\(4\)",
        ),
        (
            lambda m: m.fit(IMAGES, LABELS, shuffle=lambda epoch: range(5), verbose=0),
            ValueError,
            r"shape \(5,\)",
        ),
        (lambda m: m.fit(IMAGES[:0], LABELS[:0]), ValueError, "there are no examples"),
        (lambda m: m.evaluate(IMAGES[:0], LABELS[:0]), ValueError, "there are no examples"),
        (lambda m: m.train_on_batch(IMAGES[:0], LABELS[:0]), ValueError, "there are no examples"),
        (lambda m: m.predict(IMAGES[0]), ValueError, r"x\[None\]"),
        (lambda m: m.predict(np.zeros((4, 2, 8, 8))), ValueError, "seems to be NCHW.*moveaxis"),
        (lambda m: m.predict(np.zeros(4)), ValueError, r"expected \(N, 8, 8, 2\)"),
        (lambda m: m.predict(3.0), ValueError, r"`x` has shape \(\)"),
        (lambda m: m.predict(["a"]), TypeError, "`x` has dtype <U1"),
        (lambda m: m.predict(IMAGES.astype(complex)), TypeError, "dtype complex128"),
        (lambda m: m.compile("adan"), ValueError, "`optimizer` is 'adan'.*mean 'adam'"),
        (lambda m: m.compile(los="x"), TypeError, "compile has no.*'los'; did you mean 'loss'"),
        (lambda m: m.compile(loss="softmax"), ValueError, "mean 'softmax_cross_entropy'"),
        (lambda m: m.compile(metrics=["acc"]), ValueError, "`metrics` is 'acc'.*'accuracy'"),
        (lambda m: m.compile(metrics="accuracy"), TypeError, r"as \['accuracy'\]"),
        (lambda m: m.set_weights(m.get_weights()[1:]), ValueError, "`weights` have shapes"),
        (lambda m: Sequential([]), ValueError, "`layers` is empty"),
        (lambda m: Sequential(Dense(2)), TypeError, "expected a list of layers"),
        (lambda m: Sequential([Dense]), TypeError, "expected a layer, as in"),
        (lambda m: Sequential([Dense(2)], inputshape=3), TypeError, "mean 'input_shape'"),
        (lambda m: Sequential([Dense(2)], seed=-1), ValueError, "`seed` is -1"),
        (lambda m: Sequential([Dense(2)], dtype="float16"), ValueError, "`dtype` is 'float16'"),
        (lambda m: Sequential([Dense(2)], dtype="floot64"), ValueError, "mean 'float64'"),
        (lambda m: Sequential([Dense(2)], input_shape=(0,)), ValueError, "`input_shape` is 0"),
        (lambda m: Sequential([Dense(2)] * 2), ValueError, "holds at 1 a Dense .* in use"),
        (lambda m: Sequential(m.layers), ValueError, "holds at 0 a Rescaling .* in use"),
        (
            lambda m: Sequential([Conv2D(2, 3), Conv2D(2, 9)], input_shape=(8, 8, 1)),
            ValueError,
            "layer conv2d_1: conv2d: .*9x9",
        ),
    ],
)
def test_bad_use(use, error, message):
    with pytest.raises(error, match=message):
        use(small())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m: m.fit(IMAGES, LABELS), "call compile"),
        (lambda m: m.evaluate(IMAGES, LABELS), "call compile"),
        (lambda m: m.train_on_batch(IMAGES, LABELS), "call compile"),
        (lambda m: m.summary(), "no weights yet"),
        (lambda m: m.get_weights(), "no weights yet"),
        (lambda m: m.count_params(), "no weights yet"),
        (lambda m: m.save("model.h5"), "no weights yet"),
    ],
)
def test_too_early(use, message):
    with pytest.raises(RuntimeError, match=message):
        use(Sequential([Flatten(), Dense(2)]))


def test_network_that_gives_no_logits():
    model = Sequential([Conv2D(2, 3)], input_shape=SHAPE)
    model.compile()
    assert model.predict(IMAGES).shape == (4, 6, 6, 2)
    with pytest.raises(ValueError, match=r"output has shape \(6, 6, 2\)"):
        model.fit(IMAGES, LABELS)


def test_failed_build_can_be_tried_again():
    layers = [Conv2D(2, 5), Flatten(), Dense(2)]
    with pytest.raises(ValueError, match="layer conv2d: "):
        Sequential(layers, input_shape=(4, 4, 1))
    assert Sequential(layers, input_shape=(5, 5, 1)).output_shape == (2,)
