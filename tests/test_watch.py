"""Predictions keep what they make of the weights; nobody tells them when these change."""

import numpy as np
import pytest

import pyconv
from pyconv import _dispatch, zoo
from pyconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
    Residual,
)  # fmt: skip

KERNELS = _dispatch.available_kernels()
SIZES = (1, 15, 16, 127, 128, 129, 4096, 4097, 30_000)  # numbers; a piece has 4096


def watch_of(isa, *arrays):
    watch = _dispatch.Kernels(isa).modules["f"].Watch()
    for array in arrays:
        watch.add(array)
    return watch


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_bit_of_every_number_counts(isa, threads, rng):
    arrays = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    watch = watch_of(isa, *arrays)
    assert watch.version == 0
    for version in (1, 1):  # nothing changes between these two looks
        watch.look(threads)
        assert watch.version == version
    for array in arrays:
        for place in {0, array.size // 2, array.size - 1}:
            for bit in (0, 7, 23, 31):
                array.view(np.uint32)[place] ^= np.uint32(1 << bit)
                version += 1
                watch.look(threads)
                assert watch.version == version
    watch.look(threads)
    assert watch.version == version


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_changes_of_all_numbers_do_not_cancel(isa, size, rng):
    array = rng.standard_normal(size).astype(np.float32)
    watch = watch_of(isa, array)
    for count, change in enumerate((
        lambda a: None, np.negative, lambda a: a * 2, lambda a: a[::-1].copy(), np.zeros_like,
        lambda a: a - 0.0 if a.any() else -a, np.ones_like, lambda a: a + 1,
    )):  # fmt: skip
        before = array.tobytes()
        changed = change(array)
        if changed is not None:
            array[...] = changed
        version = watch.version
        watch.look(2)
        assert watch.version == version + (count == 0 or array.tobytes() != before)


def test_a_watch_of_nothing():
    watch = watch_of(KERNELS[0])
    watch.look(2)
    watch.look(2)
    assert watch.version == 1


def residual_net():
    """Convolutions that take F(2x2, 3x3), F(4x4, 3x3) or the direct sum, with and without residuals."""
    return pyconv.Sequential(
        [
            Conv2D(16, 3, padding="same", activation="relu"),
            Residual([Conv2D(16, 3, padding="same"), BatchNormalization()]), ReLU(),
            Residual([Conv2D(16, 1), BatchNormalization()]), ReLU(),
            Conv2D(33, 3, padding="same"), BatchNormalization(), ReLU(), MaxPooling2D(2),
            Residual([Conv2D(33, 3, padding="same"), BatchNormalization()]),
            Conv2D(20, 3, padding="same", activation="relu"), MaxPooling2D(2),
            GlobalAveragePooling2D(), Flatten(), Dense(5),
        ],
        input_shape=(17, 14, 3), seed=3,
    )  # fmt: skip


ROWS = [((40, 36, 3), (5, 5, 3, 6)), ((20, 18, 6), (5, 5, 6, 4)), ((20, 18, 4), (5, 5, 4, 48))]


def rows_net():
    """Convolutions that take Winograd along the rows: of few outputs, also before a pool, of many."""
    convolutions = [Conv2D(w[3], w[0], padding="same", activation="relu") for _, w in ROWS]
    return pyconv.Sequential(
        [convolutions[0], MaxPooling2D(2), *convolutions[1:], GlobalAveragePooling2D(), Dense(5)],
        input_shape=ROWS[0][0], seed=3,
    )


@pytest.mark.parametrize(("x", "w"), ROWS)
@pytest.mark.parametrize("N", [1, 3])
def test_such_convolutions_take_it(N, x, w):
    assert pyconv.conv2d_algorithm((N, *x), w, padding="same") == "winograd"


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("net", [residual_net, rows_net])
def test_predictions_follow_each_array(net, N, threads, rng):
    pyconv.set_num_threads(threads)
    model = net()
    x = rng.standard_normal((N, *model.input_shape)).astype(np.float32)
    every = [layer for outer in model.layers for layer in (outer, *outer.inner)]
    arrays = [array for layer in every for array in layer.weights.values() if array.size]
    y = model.predict(x)
    for array in arrays:
        old = array.copy()
        array.flat[array.size // 2] += 1
        fresh = net()
        fresh.set_weights(model.get_weights())
        changed = model.predict(x)
        assert changed.tobytes() == fresh.predict(x).tobytes() != y.tobytes()
        array[...] = old
    assert model.predict(x).tobytes() == y.tobytes()


@pytest.mark.parametrize("net", [residual_net, rows_net])
def test_weights_that_are_not_finite_for_a_while(net, rng):
    model = net()
    x = rng.standard_normal((1, *model.input_shape)).astype(np.float32)
    y, (w, b) = model.predict(x), model.layers[0].params.values()
    for kept in (w[1, 1, 0, 3], b[2]):
        array = w if kept == w[1, 1, 0, 3] else b
        place = (1, 1, 0, 3) if array is w else (2,)
        array[place] = np.nan
        assert np.isnan(model.predict(x)).all()
        array[place] = kept + 1
        fresh = net()
        fresh.set_weights(model.get_weights())
        assert model.predict(x).tobytes() == fresh.predict(x).tobytes()
        array[place] = kept
        assert model.predict(x).tobytes() == y.tobytes()


def test_the_fused_sum_is_that_of_the_layers(rng):
    for model in (residual_net(), zoo.resnet20(seed=1)):
        model.compile(pyconv.SGD(0.01))
        x = rng.standard_normal((5, *model.input_shape)).astype(np.float32)
        for _ in range(3):
            model.train_on_batch(x, np.arange(5))
        apart = pyconv.Sequential(
            [type(layer)(**layer.get_config()) for layer in model.layers],
            input_shape=model.input_shape, fuse=False)
        apart.set_weights(model.get_weights())
        for N in (1, 2, 5):
            want = apart.predict(x[:N])
            assert abs(model.predict(x[:N]) - want).max() <= 1e-4 * abs(want).max()
