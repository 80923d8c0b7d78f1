"""conv2d and conv2d_backward: exact on integers, bounded on real numbers, IEEE on NaN and infinity.

Every geometry of cases.py runs in float32 and float64, on every kernel variant, on 1, 2 and 3
threads, against the oracle; channel counts and widths around the edges of vectors and tiles run
against the fast reference.
"""

import functools
import itertools

import cases
import numpy as np
import pytest
import reference
from cases import CHANNELS, SEED, THREADS, Conv
from numpy.testing import assert_array_equal

import pyconv

GEOMETRIES = cases.CONVOLUTIONS + cases.random_geometries(40, SEED)
# Large enough to be cut into several work items, and to use several threads.
LAYERS = [
    Conv("signs-1", (2, 64, 64, 3), (4, 4), 8, {"padding": "same"}),
    Conv("signs-2", (2, 8, 8, 8), (2, 2), 16, {"padding": "same"}),
    Conv("lenet-2", (3, 14, 14, 6), (5, 5), 16),
    Conv("resnet", (2, 17, 19, 33), (3, 3), 40, {"padding": 1}),
    Conv("resnet-down", (2, 16, 16, 32), (3, 3), 64, {"padding": "same", "stride": 2}),
    Conv("stem", (1, 45, 47, 3), (7, 7), 24, {"padding": 3, "stride": 2}),
    Conv("alexnet", (1, 51, 51, 3), (11, 11), 17, {"stride": 4}),
    Conv("pointwise", (2, 12, 13, 64), (1, 1), 48),
    Conv("pointwise-down", (2, 13, 12, 40), (1, 1), 64, {"stride": 2}),
    Conv("depthwise", (2, 19, 21, 48), (3, 3), 48, {"padding": "same", "groups": 48}),
    Conv("grouped", (2, 15, 15, 32), (3, 3), 64, {"padding": "same", "groups": 4}),
    Conv("dilated", (1, 23, 25, 16), (3, 3), 32, {"padding": "same", "dilation": 4}),
    Conv("dense-like", (4, 6, 6, 40), (6, 6), 130),
    Conv("wide", (2, 6, 7, 128), (3, 3), 96),
    Conv("wide-grouped", (2, 6, 7, 128), (3, 3), 64, {"groups": 2}),
    Conv("wide-strided", (1, 9, 9, 130), (3, 2), 65, {"stride": 2, "dilation": 2}),
    Conv("many-channels", (1, 3, 4, 300), (3, 3), 200, {"padding": "same"}),
]


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_forward(case, dtype, isa):
    x, w, b, _ = cases.arrays(case, dtype)
    expected = cases.solved(case)[0]
    for num_threads in THREADS:
        y = pyconv.conv2d(x, w, b, **case.options, num_threads=num_threads)
        assert y.dtype == dtype
        assert_array_equal(y, expected, err_msg=f"{num_threads} threads")


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_backward(case, dtype, isa):
    x, w, _, dy = cases.arrays(case, dtype)
    expected = cases.solved(case)[1:]
    for num_threads in THREADS:
        gradients = pyconv.conv2d_backward(dy, x, w, **case.options, num_threads=num_threads)
        for name, ours, theirs in zip(("dx", "dw", "db"), gradients, expected, strict=True):
            assert ours.dtype == dtype
            assert_array_equal(ours, theirs, err_msg=f"{name}, {num_threads} threads")


@pytest.mark.parametrize("case", GEOMETRIES[::4], ids=str)
def test_bias_and_relu_are_optional(case, dtype, isa):
    x, w, b, _ = cases.arrays(case, dtype)
    biased = cases.solved(case)[0]
    for bias, without in ((b, 0), (None, b)):
        expected = biased - without
        assert_array_equal(pyconv.conv2d(x, w, bias, **case.options), expected)
        y = pyconv.conv2d(x, w, bias, **case.options, activation="relu")
        assert_array_equal(y, np.maximum(expected, 0))


@pytest.mark.parametrize("case", [*cases.CONVOLUTIONS[::6], LAYERS[3], LAYERS[-1]], ids=str)
def test_only_the_gradients_needed(case, dtype, isa):
    x, w, _, dy = cases.arrays(case, dtype)
    everything = pyconv.conv2d_backward(dy, x, w, **case.options)
    for count in range(4):
        for need in itertools.combinations(("x", "w", "b"), count):
            gradients = pyconv.conv2d_backward(dy, x, w, **case.options, need=need)
            for key, ours, theirs in zip(("x", "w", "b"), gradients, everything, strict=True):
                if key in need:
                    assert_array_equal(ours, theirs)
                else:
                    assert ours is None


def test_out_is_filled_and_returned(dtype, isa):
    case = GEOMETRIES[0]
    x, w, b, _ = cases.arrays(case, dtype)
    out = np.full(cases.solved(case)[0].shape, np.nan, dtype)
    assert pyconv.conv2d(x, w, b, **case.options, out=out) is out
    assert_array_equal(out, cases.solved(case)[0])


# ------------------------------------------------------------- edges of vectors, blocks and tiles


@functools.cache
def referenced(case):
    """(y, dx, dw, db) of a convolution with `cases.arrays`, by the fast reference."""
    x, w, b, dy = cases.arrays(case, np.float64)
    gradients = reference.conv2d_backward(dy, x, w, **case.options)
    return reference.conv2d(x, w, b, **case.options), *gradients


def check(case, dtype, num_threads=2):
    """Compare the forward pass and the three gradients with the reference, exactly."""
    x, w, b, dy = cases.arrays(case, dtype)
    y = pyconv.conv2d(x, w, b, **case.options, num_threads=num_threads)
    gradients = pyconv.conv2d_backward(dy, x, w, **case.options, num_threads=num_threads)
    for name, ours, theirs in zip(
        ("y", "dx", "dw", "db"), (y, *gradients), referenced(case), strict=True
    ):
        assert_array_equal(ours, theirs, err_msg=f"{name} of {case}")


@pytest.mark.parametrize("C_in", CHANNELS)
def test_channels(C_in, dtype, isa):
    for C_out in CHANNELS:
        name, options = f"{C_in} to {C_out}", {"padding": "same"}
        check(Conv(name, (1, 3, 3, C_in), (3, 2), C_out, options), dtype)


@pytest.mark.parametrize("per_group", CHANNELS[:10])
def test_channels_of_groups(per_group, dtype, isa):
    for groups in (2, 3):
        for C_out in (groups, 5 * groups, 17 * groups):
            shape = (1, 3, 4, per_group * groups)
            options = {"groups": groups, "padding": 1, "stride": (1, 2)}
            check(Conv(f"{groups} groups {shape} to {C_out}", shape, (2, 3), C_out, options), dtype)


@pytest.mark.parametrize("C", CHANNELS)
def test_depthwise_channels(C, dtype, isa):
    for multiplier in (1, 2):
        options = {"groups": C, "padding": "same"}
        check(Conv(f"{C} x {multiplier}", (2, 3, 4, C), (3, 3), C * multiplier, options), dtype)


@pytest.mark.parametrize("W", range(1, 31))
def test_widths(W, dtype, isa):
    for C_in, C_out in ((3, 5), (5, 33)):
        for options in ({"padding": "same"}, {"padding": "same", "stride": 2}, {"padding": (0, 2)}):
            check(Conv(f"{W} wide, {options}", (1, 2, W, C_in), (2, 3), C_out, options), dtype)


@pytest.mark.parametrize("N", [1, 2, 3, 7, 8, 9, 16, 33])
def test_batches(N, dtype, isa):
    case = Conv(f"{N} images", (N, 4, 5, 3), (3, 3), 8, {"padding": "same"})
    for num_threads in THREADS:
        check(case, dtype, num_threads)


@pytest.mark.parametrize("N", [7, 40, 131])  # dw sums several at a time
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 2), (2, 4)], ids=str)
def test_many_small_images(N, kernel, dtype, isa, direct):
    for C_in, C_out, groups in ((3, 5, 1), (13, 7, 1), (13, 20, 1), (40, 33, 1), (26, 34, 2)):
        for options in ({}, {"padding": "same", "stride": 2}, {"padding": (1, 0), "stride": (3, 2)}):
            name = f"{N} images, {C_in} to {C_out}, {options}"
            case = Conv(name, (N, 4, 5, C_in), kernel, C_out, options | {"groups": groups})
            for num_threads in THREADS:
                check(case, dtype, num_threads)


@pytest.mark.parametrize("N", [1, 2, 11, 12, 13])
def test_filters_as_large_as_the_image(N, dtype, isa):  # few outputs: weights are not packed
    for C_out, groups in ((5, 1), (16, 1), (33, 1), (64, 1), (70, 2), (96, 2)):
        name, options = f"{N} x {C_out} outputs, {groups} groups", {"groups": groups}
        case = Conv(name, (N, 2, 3, 6 * groups), (2, 3), C_out, options)
        for num_threads in THREADS:
            check(case, dtype, num_threads)


@pytest.mark.parametrize("kernel", [(3, 4), (1, 4), (3, 1), (2, 4)], ids=str)
def test_images_of_one_output_or_a_few(kernel, dtype, isa, direct):  # one alone is a dense layer
    for padding in ("valid", ((0, 1), (0, 2)), ((1, 0), (0, 0))):
        for stride in (1, (3, 4)):
            for N, C_in, C_out in ((1, 3, 5), (14, 7, 20), (33, 12, 40), (140, 5, 9)):
                options = {"padding": padding, "stride": stride}
                name = f"{N} images, {C_in} channels, {kernel}, {options}"
                case = Conv(name, (N, 3, 4, C_in), kernel, C_out, options)
                for num_threads in THREADS:
                    check(case, dtype, num_threads)


@pytest.mark.parametrize("shape, kernel, C_out", [
    ((2, 7, 9, 520), (3, 3), 64), ((1, 3, 16, 2100), (1, 2), 32), ((3, 6, 7, 480), (3, 3), 16),
    ((50, 3, 4, 480), (3, 3), 40), ((2, 9, 9, 260), (5, 5), 40),
], ids=str)
def test_many_weights(shape, kernel, C_out, dtype, isa, direct):  # tiles take some, then the next
    for padding in ("valid", "same"):
        case = Conv(f"{kernel}, {padding}", shape, kernel, C_out, {"padding": padding, "stride": (2, 1)})
        for num_threads in THREADS:
            check(case, dtype, num_threads)
        x, w, b, _ = cases.arrays(case, dtype)
        y = pyconv.conv2d(x, w, b, **case.options, activation="relu")
        assert_array_equal(y, np.maximum(referenced(case)[0], 0))


@pytest.mark.parametrize("stride", [2, (1, 3), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_strides_that_leave_pixels_out(stride, groups, dtype, isa):  # dx is zero there
    for kernel in ((1, 1), (1, 2)):
        options = {"stride": stride, "groups": groups}
        case = Conv(f"{kernel}, {options}", (2, 8, 9, 34 * groups), kernel, 10 * groups, options)
        for num_threads in THREADS:
            check(case, dtype, num_threads)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_of_real_networks(case, dtype, isa, direct):
    for num_threads in THREADS:
        check(case, dtype, num_threads)


# ---------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("case", cases.random_geometries(30, SEED + 100), ids=str)
def test_gradients_are_adjoint(case, dtype, isa):
    """<conv(x, w), g> = <x, dx> = <w, dw>: convolution is linear in x and in w."""
    x, w, _, g = cases.arrays(case, dtype)
    y = pyconv.conv2d(x, w, **case.options)
    dx, dw, db = pyconv.conv2d_backward(g, x, w, **case.options)
    product = np.vdot(y, g)
    assert np.vdot(x, dx) == product
    assert np.vdot(w, dw) == product
    assert_array_equal(db, g.sum((0, 1, 2)))


# ---------------------------------------------------------------------------------- real numbers


@pytest.mark.parametrize(
    "case",
    [
        Conv("3x3", (2, 9, 10, 16), (3, 3), 24, {"padding": "same"}),
        Conv("5x5-strided", (2, 13, 14, 3), (5, 5), 33, {"stride": 2, "padding": 2}),
        Conv("1x1", (2, 7, 7, 64), (1, 1), 40),
        Conv("depthwise", (2, 9, 10, 17), (3, 3), 17, {"groups": 17, "padding": "same"}),
    ],
    ids=str,
)
def test_rounding_error(case, dtype, isa, rng):
    """A sum of n products is off by at most about n * eps / 2 times the sum of their sizes.

    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, for any order of
    summation, fused or not.) The other half of n * eps is for the float64 reference's own error.
    """
    x, w = rng.standard_normal(case.x_shape), rng.standard_normal(case.w_shape)
    x, w = x.astype(dtype), w.astype(dtype)
    dy = rng.standard_normal(referenced(case)[0].shape).astype(dtype)
    ours = (
        pyconv.conv2d(x, w, **case.options),
        *pyconv.conv2d_backward(dy, x, w, **case.options),
    )
    exact = (
        reference.conv2d(x, w, **case.options),
        *reference.conv2d_backward(dy, x, w, **case.options),
    )
    sizes = (
        reference.conv2d(abs(x), abs(w), **case.options),
        *reference.conv2d_backward(abs(dy), abs(x), abs(w), **case.options),
    )
    taps, pixels = np.prod(case.kernel), dy[..., 0].size
    C_group, C_out = case.w_shape[2], case.C_out // case.options.get("groups", 1)
    terms = (taps * C_group, taps * C_out, pixels, pixels)
    for name, got, wanted, size, n in zip(
        ("y", "dx", "dw", "db"), ours, exact, sizes, terms, strict=True
    ):
        assert np.all(abs(got - wanted) <= n * np.finfo(dtype).eps * size), name


# ----------------------------------------------------------------------------- NaN and infinity


WITH_CHANNELS = [
    *(Conv(f"1-to-{C}", (1, 4, 5, 1), (2, 2), C) for C in range(1, 41)),
    *(Conv(f"{C}-to-2", (1, 4, 5, C), (2, 2), 2) for C in range(3, 41)),
]


def spoiled(rng, shape, dtype, values=(np.nan, np.inf, -np.inf)):
    """Integers with each of `values` at one random place."""
    array = cases.integers(rng, shape, dtype)
    places = rng.choice(array.size, min(len(values), array.size), replace=False)
    array.ravel()[places] = values[: len(places)]
    return array


def compare_spoiled(case, spoil, dtype, rng, names):
    """Compare the results called `names` when the array called `spoil` has NaN and infinity."""
    clean = dict(zip(("x", "w", "b", "dy"), cases.arrays(case, dtype), strict=True))
    x, w, b, dy = (clean | {spoil: spoiled(rng, clean[spoil].shape, dtype)}).values()
    with np.errstate(invalid="ignore"):
        expected = (
            reference.conv2d(x, w, b, **case.options),
            *reference.conv2d_backward(dy, x, w, **case.options),
        )
    got = (
        pyconv.conv2d(x, w, b, **case.options),
        *pyconv.conv2d_backward(dy, x, w, **case.options),
    )
    for name, ours, theirs in zip(("y", "dx", "dw", "db"), got, expected, strict=True):
        if name in names:
            assert_array_equal(ours, theirs, err_msg=f"{name} of {case}")


# dx of a spoiled w has tests of its own, below.
SPOILS = {"x": ("y", "dx", "dw", "db"), "w": ("y", "dw", "db"), "dy": ("y", "dx", "dw", "db")}


@pytest.mark.parametrize("spoil", SPOILS)
def test_nan_and_infinity_in_vector_body_and_tail(spoil, dtype, isa, rng):
    for case in WITH_CHANNELS:
        compare_spoiled(case, spoil, dtype, rng, SPOILS[spoil])


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("case", GEOMETRIES[::3], ids=str)
def test_nan_and_infinity_in_any_geometry(case, spoil, dtype, isa, rng):
    compare_spoiled(case, spoil, dtype, rng, SPOILS[spoil])


def test_dx_of_nan_and_infinity_in_the_filter(dtype, isa, rng):
    """Where no output used a pixel with a tap, there is no product: 0 * infinity would be NaN."""
    for case in WITH_CHANNELS:
        compare_spoiled(case, "w", dtype, rng, ("dx",))


@pytest.mark.parametrize("case", GEOMETRIES[::3], ids=str)
def test_dx_of_nan_and_infinity_in_the_filter_in_any_geometry(case, dtype, isa, rng):
    compare_spoiled(case, "w", dtype, rng, ("dx",))


def test_bias_and_relu_keep_nan(dtype, isa):
    for C in range(1, 41):
        b = np.arange(C).astype(dtype) - 2
        b[C // 2] = np.nan
        x, w = np.zeros((1, 1, 7, 1), dtype), np.zeros((1, 1, 1, C), dtype)
        y = pyconv.conv2d(x, w, b, activation="relu")
        expected = np.broadcast_to(np.where(b < 0, 0, b), y.shape)
        assert_array_equal(y, expected)


def test_subnormal_numbers_are_kept(dtype, isa):
    """-ffast-math would flush them to zero, here and in the rest of the process."""
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.full((1, 2, 17, 3), tiny, dtype)
    w = np.ones((1, 1, 3, 9), dtype)
    assert_array_equal(pyconv.conv2d(x, w), np.full((1, 2, 17, 9), 3 * tiny))
    assert np.array([tiny]) * 1 == tiny
