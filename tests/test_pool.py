"""Max and average pooling and their gradients: exact against the oracle, ties, NaN and infinity."""

import math

import cases
import numpy as np
import oracle
import pytest
from cases import CHANNELS, SEED, THREADS
from numpy.testing import assert_array_equal

import pyconv
from pyconv import _dispatch

POOLINGS = cases.POOLS + cases.random_pools(40, SEED)


def gradient_shape(case):
    return oracle.pool_shape(case.x_shape, case.window, **case.options)


@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_max(case, dtype, isa, rng):
    # So few values that most windows hold their maximum more than once; all negative, so that
    # padding with zeros would show.
    x = cases.integers(rng, case.x_shape, dtype, largest=2) - 3
    expected, winners = oracle.max_pool2d(x, case.window, **case.options)
    dy = cases.integers(rng, expected.shape, dtype)
    expected_dx = oracle.max_pool2d_backward(dy, winners, x.shape)
    for num_threads in THREADS:
        y, indices = pyconv.max_pool2d(
            x, case.window, **case.options, return_indices=True, num_threads=num_threads
        )
        assert (y.dtype, indices.dtype) == (dtype, np.int32)
        assert_array_equal(y, expected)
        assert_array_equal(indices, winners)
        alone = pyconv.max_pool2d(x, case.window, **case.options, num_threads=num_threads)
        assert_array_equal(alone, expected)
        dx = pyconv.max_pool2d_backward(dy, indices, x.shape, num_threads=num_threads)
        assert dx.dtype == dtype
        assert_array_equal(dx, expected_dx)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_average(case, count_include_pad, dtype, isa, rng):
    options = case.options | {"count_include_pad": count_include_pad}
    # Multiples of every divisor that occurs: quotients and their sums are whole numbers too.
    windows = oracle.pool_windows(case.x_shape, case.window, **case.options)
    multiple = math.lcm(*(n for _, pixels, padded in windows for n in (len(pixels), padded)))
    x = cases.integers(rng, case.x_shape, dtype) * dtype.type(multiple)
    dy = cases.integers(rng, gradient_shape(case), dtype) * dtype.type(multiple)
    expected = oracle.avg_pool2d(x, case.window, **options)
    expected_dx = oracle.avg_pool2d_backward(dy, x.shape, case.window, **options)
    for num_threads in THREADS:
        y = pyconv.avg_pool2d(x, case.window, **options, num_threads=num_threads)
        assert y.dtype == dtype
        assert_array_equal(y, expected)
        dx = pyconv.avg_pool2d_backward(
            dy, x.shape, case.window, **options, num_threads=num_threads
        )
        assert dx.dtype == dtype
        assert_array_equal(dx, expected_dx)
        assert np.vdot(y.astype(float), dy) == np.vdot(x.astype(float), dx)


def test_average_is_rounded_once(dtype, isa):
    """The sum of small integers is exact, so only the division rounds."""
    x = np.arange(6 * 9 * 17).reshape(1, 6, 9, 17).astype(dtype) % 13
    assert_array_equal(pyconv.avg_pool2d(x, 3), oracle.avg_pool2d(x, 3))


@pytest.mark.parametrize("C", [*CHANNELS, *range(18, 24)])
def test_channels(C, dtype, isa, rng):
    x = cases.integers(rng, (2, 5, 6, C), dtype)
    options = {"stride": 2, "padding": "same"}
    y, indices = pyconv.max_pool2d(x, 3, **options, return_indices=True)
    expected, winners = oracle.max_pool2d(x, 3, **options)
    assert_array_equal(y, expected)
    assert_array_equal(indices, winners)
    dy = cases.integers(rng, y.shape, dtype)
    dx = pyconv.max_pool2d_backward(dy, indices, x.shape)
    assert_array_equal(dx, oracle.max_pool2d_backward(dy, winners, x.shape))
    x *= 36
    assert_array_equal(pyconv.avg_pool2d(x, 3, **options), oracle.avg_pool2d(x, 3, **options))


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_special_value_at_each_window_position(value, position, dtype, isa, rng):
    x = cases.integers(rng, (1, 3, 2, 40), dtype)
    x[0, position // 2, position % 2] = value
    y, indices = pyconv.max_pool2d(x, (3, 2), return_indices=True)
    expected, winners = oracle.max_pool2d(x, (3, 2))
    assert_array_equal(y, expected)
    assert_array_equal(indices, winners)
    if not value < 0:
        assert_array_equal(indices, np.full(indices.shape, position))
    average = pyconv.avg_pool2d(x, (3, 2))
    assert_array_equal(average, np.full(average.shape, value))


@pytest.mark.parametrize("C", range(1, 41))
def test_special_values_everywhere(C, dtype, isa, rng):
    """Half of the values are NaN or infinite: windows with several, and with nothing but -inf."""
    x = cases.integers(rng, (1, 6, 7, C), dtype)
    x = np.where(rng.random(x.shape) < 0.5, rng.choice([np.nan, np.inf, -np.inf], x.shape), x)
    x[:, :2] = -np.inf
    x = x.astype(dtype)
    options = {"stride": (1, 2), "padding": 1}
    y, indices = pyconv.max_pool2d(x, 3, **options, return_indices=True)
    expected, winners = oracle.max_pool2d(x, 3, **options)
    assert_array_equal(y, expected)
    assert_array_equal(indices, winners)
    assert_array_equal(pyconv.max_pool2d(x, 3, **options), expected)
    assert_array_equal(pyconv.avg_pool2d(x, 3, **options), oracle.avg_pool2d(x, 3, **options))


def test_ties_go_to_the_first_in_row_major_order(dtype, isa):
    x = np.ones((1, 4, 4, 19), dtype)
    _, indices = pyconv.max_pool2d(x, 2, return_indices=True)
    assert_array_equal(indices[0, :, :, 7], [[0, 2], [8, 10]])
    dx = pyconv.max_pool2d_backward(np.ones((1, 2, 2, 19), dtype), indices, x.shape)
    assert_array_equal(dx[0, :, :, 7], [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])


def test_positive_and_negative_zero_tie(dtype, isa):
    x = np.array([-0.0, 0.0, 0.0, -0.0], dtype).reshape(1, 2, 2, 1)
    _, indices = pyconv.max_pool2d(x, (1, 2), return_indices=True)
    assert_array_equal(indices.ravel(), [0, 2])


def test_gradients_pass_nan_and_infinity_on(dtype, isa):
    dy = np.array([np.nan, np.inf, -np.inf, 1], dtype).reshape(1, 2, 2, 1)
    indices = np.array([0, 3, 3, 8], np.int32).reshape(dy.shape)
    dx = pyconv.max_pool2d_backward(dy, indices, (1, 3, 3, 1))
    assert_array_equal(dx.ravel(), [np.nan, 0, 0, np.nan, 0, 0, 0, 0, 1])
    dx = pyconv.avg_pool2d_backward(dy, (1, 2, 2, 1), 1)
    assert_array_equal(dx, dy)


def test_average_pooling_is_a_depthwise_convolution(dtype, isa, rng):
    x = 4 * cases.integers(rng, (2, 7, 8, 17), dtype)
    w = np.full((2, 2, 1, 17), 0.25, dtype)
    options = {"stride": (2, 1), "padding": ((1, 0), (0, 1))}
    average = pyconv.avg_pool2d(x, 2, **options, count_include_pad=True)
    assert_array_equal(average, pyconv.conv2d(x, w, **options, groups=17))


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (5, 5, 0)]
)
def test_what_passes_the_caches_is_what_one_image_gives(window, stride, padding, rng):
    """More than 24 MB, operands and results, are written past the caches; one image's are not."""
    x = rng.integers(-9, 9, (42, 65, 60, 41)).astype(np.float32)
    options = {"stride": stride, "padding": padding}
    y, indices = pyconv.max_pool2d(x, window, **options, return_indices=True)
    average = pyconv.avg_pool2d(x, window, **options)
    dx = pyconv.max_pool2d_backward(average, indices, x.shape)
    shared = pyconv.avg_pool2d_backward(y, x.shape, window, **options)
    for n in range(0, len(x), 5):
        alone = slice(n, n + 1)
        y_1, indices_1 = pyconv.max_pool2d(x[alone], window, **options, return_indices=True)
        assert_array_equal(y[alone], y_1)
        assert_array_equal(indices[alone], indices_1)
        assert_array_equal(average[alone], pyconv.avg_pool2d(x[alone], window, **options))
        assert_array_equal(dx[alone], pyconv.max_pool2d_backward(
            average[alone], indices_1, x[alone].shape))  # fmt: skip
        assert_array_equal(shared[alone], pyconv.avg_pool2d_backward(
            y_1, x[alone].shape, window, **options))  # fmt: skip


@pytest.mark.parametrize("C", [1, 5, 16, 40])
@pytest.mark.parametrize("shape", [(1, 40, 33), (20, 8, 9)])
def test_gradients_go_wherever_indices_point(shape, C, dtype, isa, rng):
    """Windows are guessed from the indices; these fit no window, or but for one of them."""
    N, H, W = shape
    x_shape = (*shape, C)
    dy = cases.integers(rng, (N, H // 2, W // 2, C), dtype)
    anywhere = rng.integers(0, H * W, dy.shape).astype(np.int32)
    _, usual = pyconv.max_pool2d(cases.integers(rng, x_shape, dtype), 2, return_indices=True)
    usual = np.ascontiguousarray(usual[:, : H // 2, : W // 2])
    usual[-1, -1, -1, -1] = 0
    for indices in (anywhere, usual, np.zeros_like(usual)):
        expected = oracle.max_pool2d_backward(dy, indices, x_shape)
        for num_threads in THREADS:
            dx = pyconv.max_pool2d_backward(dy, indices, x_shape, num_threads=num_threads)
            assert_array_equal(dx, expected)


@pytest.mark.parametrize("C", [3, 40])
@pytest.mark.parametrize("wrong", [-1, 36, -(2**31), 2**31 - 1])
def test_indices_outside_the_image_are_refused(wrong, C, dtype, isa, rng):
    _, indices = pyconv.max_pool2d(cases.integers(rng, (2, 6, 6, C), dtype), 2, return_indices=True)
    indices[1, 2, 1, C - 1] = wrong
    with pytest.raises(ValueError, match="indices"):
        pyconv.max_pool2d_backward(np.ones(indices.shape, dtype), indices, (2, 6, 6, C))


def test_no_outputs_give_no_gradient(dtype, isa):
    dx = pyconv.max_pool2d_backward(np.ones((1, 0, 2, 3), dtype), np.ones((1, 0, 2, 3), np.int32),
                                    (1, 4, 4, 3))  # fmt: skip
    assert_array_equal(dx, np.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize("case", POOLINGS[::3], ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(case, dtype, rng):
    x = rng.standard_normal(case.x_shape).astype(dtype)
    dy = rng.standard_normal(gradient_shape(case)).astype(dtype)
    results = set()
    for isa in set(_dispatch.available_kernels()) - {"baseline"} or {"baseline"}:
        with _dispatch.use(isa):
            for num_threads in (*THREADS, 8):
                options = case.options | {"num_threads": num_threads}
                y, indices = pyconv.max_pool2d(x, case.window, **options, return_indices=True)
                dx = pyconv.max_pool2d_backward(dy, indices, x.shape, num_threads=num_threads)
                average = pyconv.avg_pool2d(x, case.window, **options)
                shared = pyconv.avg_pool2d_backward(dy, x.shape, case.window, **options)
                results.add(b"".join(a.tobytes() for a in (y, indices, dx, average, shared)))
    assert len(results) == 1
