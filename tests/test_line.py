"""One-dimensional Winograd against float64 sums, and against the direct algorithm where bits matter."""

import numpy as np
import pytest

import pyconv
from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()

# N, H, W, C_in, C_out, (KH, KW), and where they are not these: stride=1, dilation=1, groups=1,
# pads=((0, 0), (0, 0)); then the directions that are Winograd's.
SHAPES = [
    # few input channels; every number of taps of a part, alone and with padding
    (8, 32, 31, 3, 64, (3, 3), {"pads": ((1, 1), (1, 1))}, "y"),
    (4, 17, 32, 6, 40, (3, 2), {}, "y"),
    (4, 13, 20, 8, 17, (4, 4), {"pads": ((1, 2), (1, 2))}, "y"),
    (3, 20, 19, 12, 24, (5, 5), {"pads": ((2, 2), (2, 2))}, "y dx"),
    (2, 15, 21, 16, 48, (6, 6), {"pads": ((0, 3), (2, 0))}, "y dx"),
    (2, 19, 23, 17, 33, (7, 7), {"pads": ((3, 3), (3, 3))}, "y dx"),
    (2, 9, 33, 20, 20, (3, 9), {"pads": ((1, 1), (4, 4))}, "y dx"),
    (2, 9, 40, 16, 16, (2, 11), {"pads": ((0, 0), (5, 5))}, "y dx"),
    (2, 9, 40, 16, 16, (2, 15), {"pads": ((0, 0), (7, 7))}, "y dx"),
    (4, 11, 17, 64, 64, (1, 7), {"pads": ((0, 0), (3, 3))}, "y dx"),
    (1, 20, 100, 70, 30, (5, 5), {"pads": ((2, 2), (2, 2))}, "y dx"),  # long sums, wide rows
    # short sums and whole pairs of vectors: two tiles at a time, of which the last may be alone
    (3, 13, 31, 1, 64, (3, 3), {"pads": ((1, 1), (1, 1))}, "y"),
    (2, 9, 22, 4, 32, (3, 3), {}, "y"),
    (5, 11, 13, 8, 64, (3, 3), {"groups": 2, "pads": ((1, 1), (1, 1))}, "y"),
    (2, 15, 33, 3, 32, (3, 3), {"stride": (2, 1), "pads": ((1, 1), (1, 1))}, "y"),
    (1, 7, 35, 2, 96, (5, 3), {"dilation": (1, 2), "pads": ((2, 2), (2, 2))}, "y"),
    (2, 11, 33, 32, 2, (5, 5), {"stride": (2, 2)}, "dx"),  # phases of 17 and of 16 columns
    # strides: even and odd taps, rows of both kinds
    (2, 33, 35, 3, 64, (7, 7), {"stride": (2, 2), "pads": ((3, 3), (3, 3))}, "y"),
    (3, 29, 31, 16, 32, (5, 5), {"stride": (2, 2), "pads": ((1, 2), (1, 2))}, "y dx"),
    (2, 30, 26, 16, 20, (4, 7), {"stride": (3, 2), "pads": ((0, 1), (2, 1))}, "y dx"),
    (2, 20, 61, 32, 32, (3, 7), {"stride": (1, 3), "pads": ((1, 1), (3, 3))}, "y dx"),
    (2, 21, 30, 24, 24, (1, 5), {"stride": (2, 1), "pads": ((0, 0), (2, 2))}, "y dx"),
    # dilation, groups
    (3, 20, 22, 32, 32, (3, 3), {"dilation": (2, 2), "pads": ((2, 2), (2, 2))}, "y dx"),
    (3, 20, 31, 32, 32, (4, 4), {"dilation": (1, 3), "pads": ((2, 1), (0, 9))}, "y dx"),
    (3, 21, 34, 32, 32, (5, 4),
     {"stride": (2, 1), "dilation": (2, 2), "pads": ((4, 4), (3, 3))}, "y dx"),
    (1, 65, 64, 32, 32, (5, 5), {"stride": (2, 2), "pads": ((2, 2), (2, 2))}, "y dx"),  # odd last band
    (3, 20, 22, 36, 51, (5, 5), {"groups": 3, "pads": ((2, 2), (2, 2))}, "y dx"),
]


class Case:
    """One convolution with random arrays, run by the kernels of one instruction set."""

    def __init__(self, N, H, W, C, K, kernel, options, directions, seed=0):
        self.directions = directions.split()
        self.stride = options.get("stride", (1, 1))
        self.dilation = options.get("dilation", (1, 1))
        self.pads = options.get("pads", ((0, 0), (0, 0)))
        self.groups = options.get("groups", 1)
        OH, OW = ((n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, d, s in zip(
            (H, W), self.pads, kernel, self.dilation, self.stride, strict=True))
        rng = np.random.default_rng(seed)
        self.x, self.w, self.b, self.dy = (
            rng.standard_normal(shape).astype(np.float32) for shape in
            ((N, H, W, C), (*kernel, C // self.groups, K), (K,), (N, OH, OW, K)))

    def plan(self, isa, direct=False, dtype="f"):
        plan = _dispatch.Kernels(isa).modules[dtype].ConvPlan(
            self.x.shape, self.w.shape, self.dy.shape, self.stride, self.dilation,
            (self.pads[0][0], self.pads[1][0]), self.groups, direct)
        for direction in self.directions if not direct and dtype == "f" else ():
            plan.take(direction, "line")
        return plan

    def run(self, plan, threads=2, relu=False):
        """y and dx, if they are Winograd's."""
        y, dx = np.full_like(self.dy, 7), np.full_like(self.x, 7)
        if "y" in self.directions:
            plan.forward(self.x, self.w, self.b, relu, y, threads)
        if "dx" in self.directions:
            plan.backward(self.dy, self.x, self.w, dx, None, None, threads)
        return [{"y": y, "dx": dx}[name] for name in self.directions]

    def reference(self):
        """The same as float64 sums."""
        x, w, b, dy = (a.astype(np.float64) for a in (self.x, self.w, self.b, self.dy))
        padded = np.pad(x, ((0, 0), *self.pads, (0, 0)))
        y, dpadded = b + np.zeros(dy.shape), np.zeros(padded.shape)
        C, K = w.shape[2], w.shape[3] // self.groups
        for kh, kw, g in np.ndindex(*w.shape[:2], self.groups):
            window = (slice(None), *(slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in zip(
                (kh, kw), self.dilation, dy.shape[1:3], self.stride, strict=True)),
                slice(g * C, (g + 1) * C))
            out = np.s_[..., g * K:(g + 1) * K]
            y[out] += padded[window] @ w[kh, kw][out]
            dpadded[window] += dy[out] @ w[kh, kw][out].T
        (top, _), (left, _) = self.pads
        dx = dpadded[:, top:top + x.shape[1], left:left + x.shape[2]]
        return [{"y": y, "dx": dx}[name] for name in self.directions]


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_within_the_rule(shape, isa):
    case = Case(*shape)
    plan = case.plan(isa)
    assert all(plan.algorithm(d) == "winograd" for d in case.directions)
    for got, want in zip(case.run(plan), case.reference(), strict=True):
        assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(shape):
    case = Case(*shape)
    wide = [isa for isa in KERNELS if isa != "baseline"] or KERNELS
    results = [case.run(case.plan(isa), threads) for isa in wide for threads in (1, 2, 3, 8)]
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_plan_gives_the_same_bits_again(shape):
    case, other = Case(*shape), Case(*shape, seed=1)
    plan = case.plan(KERNELS[0])
    first = case.run(plan)
    other.run(plan)
    for got, want in zip(case.run(plan), first, strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_plan_forgets_numbers_that_were_not_finite(shape, isa):
    case, bad = Case(*shape), Case(*shape)
    bad.x[...] = bad.dy[...] = np.nan
    first = case.run(case.plan(isa))
    plan = case.plan(isa)
    bad.run(plan)
    for got, want in zip(case.run(plan), first, strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[11]], ids=str)
def test_relu(shape, isa):
    case = Case(*shape)
    plan = case.plan(isa)
    (y,) = case.run(plan)
    np.testing.assert_array_equal(case.run(plan, relu=True)[0], np.maximum(y, 0))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["x", "w", "b", "dy"])
@pytest.mark.parametrize("shape", [SHAPES[i] for i in (5, 11, 16, 18, 22)], ids=str)
def test_values_that_are_not_finite_are_where_the_direct_sum_puts_them(shape, name, value, isa):
    for seed in range(3):
        case = Case(*shape, seed=seed)
        array = getattr(case, name)
        array.flat[np.random.default_rng(seed).integers(array.size)] = value
        direct = case.run(case.plan(isa, direct=True))
        for got, want in zip(case.run(case.plan(isa)), direct, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            infinite = np.isinf(want)
            np.testing.assert_array_equal(np.isinf(got), infinite)
            np.testing.assert_array_equal(got[infinite], want[infinite])


def test_a_nan_in_each_column_is_found():
    """At a tile's ends, an input enters one point and one output alone."""
    case = Case(*SHAPES[3])
    plan, direct = case.plan(KERNELS[0]), case.plan(KERNELS[0], direct=True)
    for column in range(case.x.shape[2]):
        case.x[:] = 1
        case.x[1, 7, column, 3] = np.nan
        for got, want in zip(case.run(plan)[:1], case.run(direct)[:1], strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_refused_by_direct_and_by_float64(shape):
    case = Case(*shape)
    for plan in (case.plan(KERNELS[0], direct=True), case.plan(KERNELS[0], dtype="d")):
        assert [plan.algorithm(d) for d in ("y", "dx")] == ["direct"] * 2


def test_only_where_it_pays():
    def algorithm(x, w, **options):
        return pyconv.conv2d_algorithm(x, w, **options)

    assert algorithm((64, 32, 32, 3), (5, 5, 3, 32)) == "winograd"
    assert algorithm((64, 32, 32, 3), (3, 3, 3, 32)) == "winograd"        # either takes as long
    assert algorithm((128, 28, 28, 5), (2, 2, 5, 64)) == "direct"         # two taps: 2.7, not 3.8 ms
    assert algorithm((64, 32, 32, 8), (5, 1, 8, 32)) == "direct"          # nothing along the rows
    assert algorithm((64, 32, 32, 32), (1, 1, 32, 64)) == "direct"
    assert algorithm((64, 32, 32, 32), (2, 2, 32, 64), stride=2) == "direct"
    assert algorithm((64, 32, 32, 32), (5, 5, 32, 64), stride=2, dilation=2) == "direct"
    assert algorithm((1, 5, 8, 64), (5, 5, 64, 64)) == "direct"           # one row: filters cost more
    assert algorithm((1, 40, 40, 1024), (5, 5, 1024, 16)) == "direct"     # too long a sum
    # Most taps of dx lie outside of dy, 15x3, and direct sums leave them out.
    assert algorithm((3, 21, 9, 32), (7, 7, 32, 256), direction="dx") == "direct"


def test_an_empty_batch():
    y = pyconv.conv2d(np.zeros((0, 20, 20, 12), np.float32), np.ones((5, 5, 12, 24), np.float32))
    assert y.shape == (0, 16, 16, 24)


@pytest.mark.parametrize("threads", [1, 2])
def test_pooling_behind_it_gives_the_bits_of_the_operations_apart(threads, rng):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in
            ((16, 20, 20, 12), (5, 5, 12, 24)))
    assert pyconv.conv2d_algorithm(x.shape, w.shape) == "winograd"
    want, places = pyconv.max_pool2d(
        pyconv.conv2d(x, w, activation="relu", num_threads=threads), 2, return_indices=True)
    got, indices = pyconv.conv2d_max_pool2d(x, w, None, 2, activation="relu", num_threads=threads)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(indices[got > 0], places[got > 0])


def test_values_behind_the_input_are_not_read():
    """The last pixel's channels end the array: a NaN behind them must not be seen."""
    case = Case(*SHAPES[0])
    memory = np.full(case.x.size + 64, np.nan, np.float32)
    expected = case.run(case.plan(KERNELS[0]))
    x = memory[:case.x.size].reshape(case.x.shape)
    x[:] = case.x
    case.x = x
    for got, want in zip(case.run(case.plan(KERNELS[0])), expected, strict=True):
        assert got.tobytes() == want.tobytes()
