"""Depthwise convolution (groups = C_in): exact on integers, the same bits everywhere, NaN where due."""

import functools

import cases
import numpy as np
import pytest
import reference
from cases import THREADS, Conv
from numpy.testing import assert_array_equal

import pyconv
from pyconv import _dispatch

OPTIONS = [
    {"padding": "same"},
    {"padding": 1, "stride": 2},
    {"padding": ((2, 0), (1, 3)), "stride": (1, 3)},
    {"dilation": (2, 3), "padding": "same"},
    {"dilation": 2, "stride": 2, "padding": ((0, 3), (4, 0))},
    {},
]
# Large enough to be cut into several bands and parts; rows and columns around tiles of 8 and of 32.
LAYERS = [
    Conv("mobile", (2, 29, 33, 40), (3, 3), 40, {"padding": "same"}),
    Conv("mobile-down", (3, 30, 31, 36), (3, 3), 36, {"padding": "same", "stride": 2}),
    Conv("5x5", (2, 17, 40, 20), (5, 5), 20, {"padding": 2}),
    Conv("7x7-twice", (1, 23, 22, 12), (7, 7), 24, {"padding": 3}),
    Conv("in-place", (2, 29, 45, 48), (3, 3), 48, {"padding": "same"}),
    Conv("in-place-down", (2, 31, 46, 52), (3, 3), 52, {"padding": 1, "stride": 2}),
    Conv("in-place-5x5-down", (1, 27, 49, 33), (5, 5), 33, {"padding": 2, "stride": 2}),
    Conv("in-place-4x4-down", (1, 24, 46, 32), (4, 4), 32, {"padding": 1, "stride": 2}),
    Conv("in-place-dilated", (1, 19, 40, 20), (3, 3), 20, {"padding": "same", "dilation": (2, 5)}),
    *(Conv(f"patches-{KH}x{KW}", (1, 15, 23, 37), (KH, KW), 37, {"padding": "same"})
      for KH, KW in ((1, 1), (1, 3), (3, 1), (2, 3), (3, 2), (2, 2), (5, 5))),
    Conv("patches-5x5-down", (2, 26, 31, 48), (5, 5), 48, {"padding": "same", "stride": 2}),
    Conv("beyond-caches", (3, 57, 58, 72), (3, 3), 72, {"padding": "same"}),
    Conv("beyond-caches-down", (3, 57, 58, 72), (3, 3), 72, {"padding": 1, "stride": 2}),
    Conv("writes-beyond-caches", (5, 86, 87, 60), (3, 3), 60, {"padding": 1, "stride": 2}),
    Conv("last-layers", (8, 7, 7, 130), (3, 3), 130, {"padding": 1}),
    Conv("narrow", (2, 64, 65, 3), (3, 3), 9, {"padding": "same"}),
    *(Conv(f"repeated-{KH}x{KW}", (2, 15, 22, C), (KH, KW), K, {"padding": "same", "stride": stride})
      for KH, KW, C, K, stride in (
          (3, 3, 3, 24, 1), (3, 3, 5, 20, 2), (5, 5, 7, 35, 1), (5, 5, 10, 20, 2), (1, 3, 17, 51, 1),
          (3, 1, 9, 18, 1), (1, 7, 3, 24, 1), (7, 1, 3, 12, 2))),
    Conv("wide-image", (1, 3, 300, 17), (2, 4), 34, {"stride": (1, 2)}),
    Conv("stride-over-kernel", (2, 20, 21, 33), (2, 2), 33, {"stride": 3}),
    Conv("more-padding-than-kernel", (1, 5, 6, 19), (2, 2), 38, {"padding": ((4, 3), (5, 3))}),
]


def depthwise(C, multiplier, options, shape=(1, 6, 11), kernel=(3, 2)):
    name = f"{C}x{multiplier}, {options}"
    return Conv(name, (*shape, C), kernel, C * multiplier, options | {"groups": C})


for case in LAYERS:
    case.options["groups"] = case.x_shape[3]


@functools.cache
def referenced(case):
    """(y, dx, dw, db) of `cases.arrays`, by the fast reference."""
    x, w, b, dy = cases.arrays(case, np.float64)
    gradients = reference.conv2d_backward(dy, x, w, **case.options)
    return reference.conv2d(x, w, b, **case.options), *gradients


def compute(case, arrays, num_threads=2):
    x, w, b, dy = arrays
    y = pyconv.conv2d(x, w, b, **case.options, num_threads=num_threads)
    return y, *pyconv.conv2d_backward(dy, x, w, **case.options, num_threads=num_threads)


def check(case, dtype, num_threads=2):
    results = compute(case, cases.arrays(case, dtype), num_threads)
    for name, ours, theirs in zip(("y", "dx", "dw", "db"), results, referenced(case), strict=True):
        assert_array_equal(ours, theirs, err_msg=f"{name} of {case}, {num_threads} threads")


@pytest.mark.parametrize("C", range(1, 41))
def test_channels(C, dtype, isa):
    for multiplier in (1, 2, 3):
        check(depthwise(C, multiplier, OPTIONS[C % len(OPTIONS)]), dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("multiplier", range(1, 7))
def test_geometries(multiplier, options, dtype, isa):
    for C in (2, 16, 21):
        for kernel in ((1, 1), (3, 3), (4, 2), (2, 5)):
            check(depthwise(C, multiplier, options, (2, 10, 15), kernel), dtype)


@pytest.mark.parametrize("W", range(1, 40))
def test_widths(W, dtype, isa):
    for options in OPTIONS[:2]:
        check(depthwise(18, 1, options, (1, 3, W)), dtype)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers(case, dtype, isa):
    for num_threads in THREADS:
        check(case, dtype, num_threads)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(case, dtype, rng):
    """The baseline rounds each product; the others fuse it with the sum."""
    arrays = [rng.standard_normal(a.shape).astype(dtype) for a in cases.arrays(case, dtype)]
    results = []
    for isa in set(_dispatch.available_kernels()) - {"baseline"}:
        with _dispatch.use(isa):
            results += [compute(case, arrays, num_threads) for num_threads in (*THREADS, 8)]
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("spoil", range(4), ids=("x", "w", "b", "dy"))
@pytest.mark.parametrize("multiplier", (1, 2, 5))
def test_nan_and_infinity(multiplier, spoil, dtype, isa, rng):
    """They stay in their channel, and only padding that there is makes products: see conv2d."""
    for C in range(2, 41):
        case = depthwise(C, multiplier, OPTIONS[C % len(OPTIONS)])
        arrays = [a.copy() for a in cases.arrays(case, dtype)]
        flat = arrays[spoil].ravel()
        places = rng.choice(flat.size, min(3, flat.size), replace=False)
        flat[places] = (np.nan, np.inf, -np.inf)[: len(places)]
        x, w, b, dy = arrays
        with np.errstate(invalid="ignore"):
            expected = (reference.conv2d(x, w, b, **case.options),
                        *reference.conv2d_backward(dy, x, w, **case.options))  # fmt: skip
        for name, ours, theirs in zip(
            ("y", "dx", "dw", "db"), compute(case, arrays), expected, strict=True
        ):
            assert_array_equal(ours, theirs, err_msg=f"{name} of {case}")


def test_relu_and_no_bias(dtype, isa):
    for C in (3, 16, 37):
        case = depthwise(C, 2, OPTIONS[0])
        x, w, b, _ = cases.arrays(case, dtype)
        expected = referenced(case)[0]
        assert_array_equal(pyconv.conv2d(x, w, **case.options), expected - b)
        y = pyconv.conv2d(x, w, b, **case.options, activation="relu")
        assert_array_equal(y, np.maximum(expected, 0))


def test_only_the_gradients_needed(dtype, isa):
    case = LAYERS[0]
    x, w, _, dy = cases.arrays(case, dtype)
    dx, dw, db = referenced(case)[1:]
    for need, expected in (("x", (dx, None, None)), ("w", (None, dw, None)),
                           ("b", (None, None, db))):  # fmt: skip
        gradients = pyconv.conv2d_backward(dy, x, w, **case.options, need=(need,))
        for ours, theirs in zip(gradients, expected, strict=True):
            if theirs is None:
                assert ours is None
            else:
                assert_array_equal(ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_passes_the_caches_is_what_one_image_gives(stride, rng):
    """Outputs of more than 24 MB with their inputs are written past the caches, one image's are not."""
    x = rng.standard_normal((9, 57, 58, 144), np.float32)
    w = rng.standard_normal((3, 3, 1, 144), np.float32)
    options = {"padding": 1, "stride": stride, "groups": 144}
    y = pyconv.conv2d(x, w, **options)
    dx = pyconv.conv2d_backward(y, x, w, **options, need=("x",))[0]
    for n in range(len(x)):
        alone = slice(n, n + 1)
        assert_array_equal(y[alone], pyconv.conv2d(x[alone], w, **options))
        assert_array_equal(dx[alone], pyconv.conv2d_backward(
            y[alone], x[alone], w, **options, need=("x",))[0])  # fmt: skip


def test_a_plan_gives_the_same_bits_again(dtype):
    case, (x, w, b, _) = LAYERS[4], cases.arrays(LAYERS[4], dtype)
    first = pyconv.conv2d(x, w, b, **case.options)
    pyconv.conv2d(-x, w + 1, None, **case.options)
    assert_array_equal(pyconv.conv2d(x, w, b, **case.options), first)


def test_which_convolutions_are_depthwise():
    def algorithms(C_in, C_out, groups):
        shapes = (1, 8, 8, C_in), (3, 3, C_in // groups, C_out)
        return [pyconv.conv2d_algorithm(*shapes, groups=groups, direction=d)
                for d in ("y", "dx", "dw")]  # fmt: skip

    assert algorithms(8, 8, 8) == algorithms(8, 32, 8) == ["depthwise"] * 3
    assert algorithms(8, 40, 8) == ["depthwise", "direct", "depthwise"]
    assert algorithms(8, 8, 4) == algorithms(1, 8, 1) == ["direct"] * 3
