"""conv2d_transpose and its gradients: exact on integers, adjoint to conv2d, IEEE on NaN and infinity."""

import itertools

import cases
import numpy as np
import oracle
import pytest
from cases import CHANNELS, SEED, THREADS, Conv
from numpy.testing import assert_array_equal

import pyconv

GEOMETRIES = cases.TRANSPOSED + cases.random_transposed(40, SEED)


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_forward(case, dtype, isa):
    x, w, b, _ = cases.transposed_arrays(case, dtype)
    expected = cases.solved_transposed(case)[0]
    for num_threads in THREADS:
        y = pyconv.conv2d_transpose(x, w, b, **case.options, num_threads=num_threads)
        assert y.dtype == dtype
        assert_array_equal(y, expected, err_msg=f"{num_threads} threads")
    assert_array_equal(pyconv.conv2d_transpose(x, w, **case.options), expected - b)
    y = pyconv.conv2d_transpose(x, w, b, **case.options, activation="relu")
    assert_array_equal(y, np.maximum(expected, 0))


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_backward(case, dtype, isa):
    x, w, _, dy = cases.transposed_arrays(case, dtype)
    expected = cases.solved_transposed(case)[1:]
    for num_threads in THREADS:
        gradients = pyconv.conv2d_transpose_backward(
            dy, x, w, **case.options, num_threads=num_threads
        )
        for name, ours, theirs in zip(("dx", "dw", "db"), gradients, expected, strict=True):
            assert ours.dtype == dtype
            assert_array_equal(ours, theirs, err_msg=f"{name}, {num_threads} threads")


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_gradients_are_adjoint(case, dtype, isa):
    """<y, g> = <x, dx> = <w, dw>: the operation is linear in x and in w."""
    x, w, _, g = cases.transposed_arrays(case, dtype)
    y = pyconv.conv2d_transpose(x, w, **case.options)
    dx, dw, db = pyconv.conv2d_transpose_backward(g, x, w, **case.options)
    product = np.vdot(y, g)
    assert np.vdot(x, dx) == product
    assert np.vdot(w, dw) == product
    assert_array_equal(db, g.sum((0, 1, 2)))


@pytest.mark.parametrize("case", cases.random_geometries(40, SEED + 200), ids=str)
def test_it_is_the_input_gradient_of_a_convolution(case, dtype, isa):
    """With the pixels that the convolution never read as `output_padding`."""
    _, w, _, dy = cases.arrays(case, dtype)
    sizes, options = cases.conv_geometry(case), dict(case.options)
    kernel, strides = case.kernel, oracle.pair(options["stride"])
    dilations = oracle.pair(options["dilation"])
    options["padding"] = pads = tuple((before, behind) for _, before, behind in sizes)
    options["output_padding"] = tuple(
        n + sum(pad) - (out - 1) * s - (k - 1) * d - 1
        for n, pad, (out, _, _), k, s, d in zip(
            case.x_shape[1:3], pads, sizes, kernel, strides, dilations, strict=True
        )
    )
    dx, _, _ = pyconv.conv2d_backward(dy, np.zeros(case.x_shape, dtype), w, **case.options)
    assert_array_equal(pyconv.conv2d_transpose(dy, w, **options), dx)


@pytest.mark.parametrize("C_in", CHANNELS)
def test_channels(C_in, dtype, isa):
    for C_out in CHANNELS:
        case = Conv(f"{C_in} to {C_out}", (1, 3, 3, C_in), (4, 3), C_out, {"stride": 2})
        x, w, b, dy = cases.transposed_arrays(case, dtype)
        dx, dw, db = pyconv.conv2d_backward(x, np.zeros_like(dy), w, stride=2)
        assert_array_equal(pyconv.conv2d_transpose(x, w, b, stride=2), dx + b)
        dx, dw, db = pyconv.conv2d_transpose_backward(dy, x, w, stride=2)
        assert_array_equal(dx, pyconv.conv2d(dy, w, stride=2))
        assert_array_equal(dw, pyconv.conv2d_backward(x, dy, w, stride=2)[1])
        assert_array_equal(db, dy.sum((0, 1, 2)))


@pytest.mark.parametrize("N", [1, 3, 14, 140])
@pytest.mark.parametrize("stride", [1, 3])
def test_an_image_of_one_pixel(N, stride, dtype, isa, rng):  # the convolution is a dense layer
    x, w = cases.integers(rng, (N, 1, 1, 9), dtype), cases.integers(rng, (4, 3, 5, 9), dtype)
    b, dy = cases.integers(rng, (5,), dtype), cases.integers(rng, (N, 4, 3, 5), dtype)
    pixels = x[:, 0, 0]
    for num_threads in THREADS:
        y = pyconv.conv2d_transpose(x, w, b, stride=stride, num_threads=num_threads)
        assert_array_equal(y, np.einsum("nc,hwkc->nhwk", pixels, w) + b)
        dx, dw, db = pyconv.conv2d_transpose_backward(dy, x, w, stride=stride, num_threads=num_threads)
        assert_array_equal(dx[:, 0, 0], np.einsum("nhwk,hwkc->nc", dy, w))
        assert_array_equal(dw, np.einsum("nhwk,nc->hwkc", dy, pixels))
        assert_array_equal(db, dy.sum((0, 1, 2)))


@pytest.mark.parametrize("case", cases.TRANSPOSED[::6], ids=str)
def test_only_the_gradients_needed(case, dtype, isa):
    x, w, _, dy = cases.transposed_arrays(case, dtype)
    everything = pyconv.conv2d_transpose_backward(dy, x, w, **case.options)
    for count in range(4):
        for need in itertools.combinations(("x", "w", "b"), count):
            gradients = pyconv.conv2d_transpose_backward(dy, x, w, **case.options, need=need)
            for key, ours, theirs in zip(("x", "w", "b"), gradients, everything, strict=True):
                if key in need:
                    assert_array_equal(ours, theirs)
                else:
                    assert ours is None


@pytest.mark.parametrize("spoil", ["x", "w", "dy"])
@pytest.mark.parametrize("case", GEOMETRIES[::2], ids=str)
def test_nan_and_infinity(case, spoil, dtype, isa, rng):
    clean = dict(zip(("x", "w", "b", "dy"), cases.transposed_arrays(case, dtype), strict=True))
    array = clean[spoil].copy()
    places = rng.choice(array.size, min(array.size, 3), replace=False)
    array.ravel()[places] = (np.nan, np.inf, -np.inf)[: len(places)]
    x, w, b, dy = (clean | {spoil: array}).values()
    for activation in (None, "relu"):
        y = pyconv.conv2d_transpose(x, w, b, **case.options, activation=activation)
        expected = oracle.conv2d_transpose(x, w, b, **case.options, activation=activation)
        assert_array_equal(y, expected)
    gradients = pyconv.conv2d_transpose_backward(dy, x, w, **case.options)
    expected = oracle.conv2d_transpose_backward(dy, x, w, **case.options)
    for name, ours, theirs in zip(("dx", "dw", "db"), gradients, expected, strict=True):
        assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("padding", ["valid", "same", 1])
def test_winograd_stays_within_its_bound(padding, rng):
    """3x3 filters at stride 1 of 16 channels or more: within 1e-4 of the output's rms."""
    x = rng.standard_normal((2, 32, 32, 32)).astype(np.float32)
    w = rng.standard_normal((3, 3, 48, 32)).astype(np.float32)
    b = rng.standard_normal(48).astype(np.float32)
    y = pyconv.conv2d_transpose(x, w, b, padding=padding)
    exact = pyconv.conv2d_transpose(x.astype(float), w.astype(float), b.astype(float), padding=padding)
    assert np.abs(y - exact).max() <= 1e-4 * np.sqrt(np.mean(exact**2))


def test_no_images(dtype, isa):
    x, w = np.zeros((0, 3, 4, 2), dtype), np.ones((3, 3, 5, 2), dtype)
    assert pyconv.conv2d_transpose(x, w).shape == (0, 5, 6, 5)
    dx, dw, db = pyconv.conv2d_transpose_backward(np.zeros((0, 5, 6, 5), dtype), x, w)
    assert dx.shape == x.shape
    assert_array_equal(dw, np.zeros(w.shape))
    assert_array_equal(db, np.zeros(5))
