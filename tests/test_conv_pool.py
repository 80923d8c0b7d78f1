"""Convolution + ReLU + max pooling as one kernel: equal to the three operations one after another."""

import numpy as np
import pytest
from cases import THREADS
from numpy.testing import assert_array_equal

import pyconv

# x shape, w shape, window, options
CASES = {
    "signs-1": ((3, 64, 64, 3), (4, 4, 3, 8), 8, {"padding": "same"}),
    "signs-2": ((3, 8, 8, 8), (2, 2, 8, 16), 4, {"padding": "same"}),
    "lenet-1": ((2, 28, 28, 1), (5, 5, 1, 6), 2, {"padding": "same"}),
    "lenet-2": ((2, 14, 14, 6), (5, 5, 6, 16), 2, {}),
    "vgg": ((2, 10, 10, 33), (3, 3, 33, 40), 2, {"padding": 1}),
    "pointwise": ((2, 9, 7, 5), (1, 1, 5, 6), 3, {}),
    "overlapping": ((2, 17, 15, 4), (3, 3, 4, 5), 3, {"pool_stride": 2, "pool_padding": 1}),
    "overlapping-planes": ((2, 17, 25, 4), (3, 3, 4, 3), (3, 5), {"pool_stride": (2, 3)}),
    "strided": ((2, 21, 20, 3), (3, 3, 3, 7), 4, {"stride": 2, "padding": "same"}),
    "strided-planes": ((2, 21, 40, 3), (3, 3, 3, 2), 4, {"stride": (1, 2), "padding": 3}),
    "dilated": ((2, 20, 20, 3), (3, 3, 3, 6), 4, {"dilation": 2}),
    "grouped": ((2, 12, 12, 40), (3, 3, 10, 20), 3, {"groups": 4, "padding": 1}),
    "odd-rest": ((1, 13, 19, 2), (2, 3, 2, 17), (5, 4), {"pool_padding": "same"}),
    "many-taps": ((2, 25, 22, 3), (7, 7, 3, 20), 4, {}),
    "many-channels": ((2, 12, 12, 40), (2, 2, 40, 5), 4, {"padding": "same"}),
    "no-image": ((0, 8, 8, 2), (3, 3, 2, 4), 2, {}),
}
POOL = {"pool_stride": "stride", "pool_padding": "padding"}


def integers(rng, shape, dtype, high=4):
    return rng.integers(-high, high + 1, shape).astype(dtype)


def apart(x, w, b, window, activation, options):
    """The same by separate operations; the winners are -1 where ReLU cut them off."""
    pool = {POOL[name]: options[name] for name in options.keys() & POOL.keys()}
    conv = {name: value for name, value in options.items() if name not in POOL}
    z = pyconv.conv2d(x, w, b, activation=activation, **conv)
    y, indices = pyconv.max_pool2d(z, window, return_indices=True, **pool)
    if activation == "relu":
        indices[y <= 0] = -1
    return z, y, indices, conv


@pytest.mark.parametrize("num_threads", THREADS)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_operations_apart(name, activation, dtype, isa, num_threads, rng, direct):
    x_shape, w_shape, window, options = CASES[name]
    x, w = integers(rng, x_shape, dtype), integers(rng, w_shape, dtype)
    b = integers(rng, w_shape[3:], dtype, 60)
    z, y, indices, conv = apart(x, w, b, window, activation, options)
    ours, places = pyconv.conv2d_max_pool2d(
        x, w, b, window, activation=activation, num_threads=num_threads, **options)
    assert_array_equal(ours, y)
    assert_array_equal(places, indices)

    dy = integers(rng, y.shape, dtype)
    alive = np.where(indices < 0, 0, dy).astype(dtype)
    dz = pyconv.max_pool2d_backward(alive, np.maximum(indices, 0), z.shape)
    expected = pyconv.conv2d_backward(dz, x, w, **conv)
    gradients = pyconv.conv2d_max_pool2d_backward(
        dy, places, x, w, window, num_threads=num_threads, **options)
    for which, one, other in zip(("dx", "dw", "db"), gradients, expected, strict=True):
        assert_array_equal(one, other, err_msg=which)


@pytest.mark.parametrize("num_threads", THREADS)
def test_equals_the_operations_apart_by_winograd(isa, num_threads, rng):
    x_shape, w_shape, window, options = CASES["vgg"]
    x, w = integers(rng, x_shape, np.float32), integers(rng, w_shape, np.float32)
    assert pyconv.conv2d_algorithm(x_shape, w_shape, padding=1) == "winograd"
    z, y, indices, conv = apart(x, w, None, window, "relu", options)
    ours, places = pyconv.conv2d_max_pool2d(
        x, w, None, window, activation="relu", num_threads=num_threads, **options)
    assert_array_equal(ours, y)
    assert_array_equal(places, indices)
    dy = integers(rng, y.shape, np.float32)
    alive = np.where(indices < 0, 0, dy).astype(np.float32)
    dz = pyconv.max_pool2d_backward(alive, np.maximum(indices, 0), z.shape)
    expected = pyconv.conv2d_backward(dz, x, w, **conv)
    gradients = pyconv.conv2d_max_pool2d_backward(
        dy, places, x, w, window, num_threads=num_threads, **options)
    for one, other in zip(gradients, expected, strict=True):
        assert_array_equal(one, other)


# x shape, taps, filters, padding: rows of few and of many quads, whole or not; one image an item
ALONG_ROWS = [
    ((3, 28, 28, 1), 5, 6, "same"), ((2, 30, 27, 1), 5, 6, "valid"), ((3, 31, 30, 3), 3, 8, "same"),
    ((2, 9, 9, 2), 3, 3, "same"), ((3, 64, 64, 3), 4, 8, "same"), ((33, 14, 14, 6), 5, 16, "valid"),
    ((40, 13, 15, 6), 5, 20, "same"),
]


@pytest.mark.parametrize("num_threads", THREADS)
@pytest.mark.parametrize(("window", "stride", "pads"), [
    (2, 2, "valid"), ((3, 2), (2, 2), "valid"), (3, 2, "same"), ((2, 4), (2, 4), "valid"),
    (8, 8, "same"), ((1, 2), (1, 2), "valid"),
])
@pytest.mark.parametrize(("x_shape", "taps", "K", "padding"), ALONG_ROWS)
def test_bits_of_the_operations_apart(x_shape, taps, K, padding, window, stride, pads, isa, num_threads,
                                      rng):
    """Real numbers by transforms along the rows; where these are not finite, directly."""
    x, w, b = (rng.standard_normal(shape).astype(np.float32)
               for shape in (x_shape, (taps, taps, x_shape[3], K), (K,)))
    options = {"padding": padding, "pool_stride": stride, "pool_padding": pads}
    for special, activation in ((0, None), (1, "relu"), (np.nan, "relu"), (np.inf, None)):
        x[-1, 5, 5, 0] = special
        with np.errstate(invalid="ignore"):
            _, y, indices, _ = apart(x, w, b, window, activation, options)
        ours, places = pyconv.conv2d_max_pool2d(
            x, w, b, window, activation=activation, num_threads=num_threads, **options)
        assert_array_equal(ours, y)
        assert_array_equal(places, indices)


@pytest.mark.parametrize("need", [(), ("x",), ("w",), ("b",), ("w", "b")])
def test_what_is_not_needed_is_none(need, rng):
    x_shape, w_shape, window, options = CASES["signs-2"]
    x, w = integers(rng, x_shape, np.float32), integers(rng, w_shape, np.float32)
    y, indices = pyconv.conv2d_max_pool2d(x, w, None, window, **options)
    everything = pyconv.conv2d_max_pool2d_backward(y, indices, x, w, window, **options)
    some = pyconv.conv2d_max_pool2d_backward(y, indices, x, w, window, need=need, **options)
    for name, gradient, full in zip("xwb", some, everything, strict=True):
        if name in need:
            assert_array_equal(gradient, full)
        else:
            assert gradient is None


def test_nan_and_infinity_stay_where_they_are(dtype, isa, rng):
    """An infinite gradient times the zeros behind a filter's row would be NaN in the next pixel."""
    x = integers(rng, (1, 16, 16, 3), dtype)
    w = integers(rng, (4, 4, 3, 8), dtype)
    w[w == 0] = 1
    y, indices = pyconv.conv2d_max_pool2d(x, w, None, 8, padding="same")
    dy = np.zeros_like(y)
    dy[0, 0, 0, 0] = np.inf
    dx, _, _ = pyconv.conv2d_max_pool2d_backward(dy, indices, x, w, 8, padding="same", need=("x",))
    reached = np.zeros((16, 16), bool)
    row, column = divmod(int(indices[0, 0, 0, 0]), 16)
    reached[max(0, row - 1):row + 3, max(0, column - 1):column + 3] = True
    assert np.isinf(dx[0][reached]).all()
    assert (dx[0][~reached] == 0).all()
    x[0, 5, 5, 1] = np.nan
    y, indices = pyconv.conv2d_max_pool2d(x, w, None, 8, padding="same", activation="relu")
    assert np.isnan(y[0, 0, 0]).all()
    assert not np.isnan(y[0, 1, 1]).any()


def test_indices_outside_the_image_are_refused(rng):
    x, w = integers(rng, (1, 8, 8, 2), np.float32), integers(rng, (3, 3, 2, 4), np.float32)
    y, indices = pyconv.conv2d_max_pool2d(x, w, None, 2)
    indices[0, 0, 0, 0] = 36
    with pytest.raises(ValueError, match=r"`indices` .* outside the 6x6 pixels"):
        pyconv.conv2d_max_pool2d_backward(y, indices, x, w, 2)
