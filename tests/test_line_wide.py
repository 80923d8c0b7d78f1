"""Winograd along the rows, F(4, r), for few output channels; F(4x4, 3x3) is in test_winograd.py."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import pyconv
from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()
WIDE = [isa for isa in KERNELS if isa != "baseline"] or KERNELS

# x shape, w shape, ((top, bottom), (left, right)), stride, dilation, directions that take it, groups
SHAPES = [
    ((3, 64, 64, 3), (4, 4, 3, 8), ((1, 2), (1, 2)), (1, 1), (1, 1), "y dx"),
    ((3, 28, 28, 1), (5, 5, 1, 6), ((2, 2), (2, 2)), (1, 1), (1, 1), "y dx"),
    ((3, 14, 14, 6), (5, 5, 6, 16), ((0, 0), (0, 0)), (1, 1), (1, 1), "dx"),
    ((2, 21, 32, 3), (3, 3, 3, 32), ((1, 1), (1, 1)), (1, 1), (1, 1), "dx"),
    ((2, 28, 31, 3), (7, 7, 3, 33), ((3, 3), (3, 3)), (2, 2), (1, 1), "dx"),
    ((2, 26, 27, 5), (3, 5, 5, 4), ((0, 2), (3, 0)), (1, 1), (2, 1), "y dx"),
    ((2, 24, 25, 4), (3, 3, 4, 7), ((1, 1), (0, 0)), (2, 1), (1, 1), "dx"),
    ((1, 20, 17, 2), (1, 3, 2, 5), ((0, 0), (4, 4)), (1, 1), (1, 1), "y"),
    ((5, 9, 10, 67), (3, 3, 67, 3), ((1, 1), (1, 1)), (1, 1), (1, 1), "y"),  # chunks of channels
    ((1, 300, 9, 2), (2, 4, 2, 2), ((0, 1), (1, 2)), (1, 1), (1, 1), "y dx"),
    *(((2, 12, width, 3), (3, 3 + width % 3, 3, 2 + width % 7), ((1, 1), (1, 1)), (1, 1), (1, 1), "y")
      for width in range(14, 40)),
    # one part of 2, 6 and 7 taps; two and three
    ((2, 21, 25, 3), (4, 2, 3, 7), ((0, 0), (0, 0)), (1, 1), (1, 1), "y dx"),
    ((2, 22, 23, 8), (6, 6, 8, 12), ((2, 3), (2, 3)), (1, 1), (1, 1), "dx"),
    ((2, 21, 24, 6), (7, 7, 6, 7), ((3, 3), (3, 3)), (1, 1), (1, 1), "y dx"),
    ((1, 25, 23, 64), (7, 7, 64, 3), ((3, 3), (3, 3)), (1, 1), (1, 1), "y"),
    ((2, 20, 21, 3), (3, 11, 3, 5), ((1, 1), (5, 5)), (1, 1), (1, 1), "y dx"),
    ((1, 21, 45, 2), (2, 15, 2, 5), ((1, 0), (0, 20)), (1, 1), (1, 1), "y dx"),
    # strides and dilations
    ((2, 43, 43, 4), (7, 7, 4, 8), ((3, 3), (3, 3)), (2, 2), (1, 1), "y dx"),
    ((2, 43, 58, 3), (7, 7, 3, 8), ((3, 3), (3, 3)), (2, 2), (1, 1), "y dx"),
    ((2, 61, 67, 4), (5, 9, 4, 6), ((2, 2), (1, 4)), (3, 3), (1, 1), "y dx"),
    ((2, 25, 27, 20), (3, 3, 20, 8), ((2, 2), (2, 2)), (1, 1), (2, 2), "y"),
    ((2, 23, 31, 5), (5, 5, 5, 30), ((0, 0), (9, 5)), (1, 1), (1, 3), "dx"),
    ((2, 63, 41, 5), (5, 5, 5, 5), ((2, 2), (2, 2)), (3, 1), (1, 4), "y dx"),
    # groups: sets of two, five and one; the last set short
    ((2, 20, 19, 40), (3, 4, 8, 40), ((1, 1), (1, 1)), (1, 1), (1, 1), "y dx", 5),
    ((2, 20, 19, 21), (3, 3, 3, 21), ((1, 1), (1, 1)), (1, 1), (1, 1), "y dx", 7),
    ((2, 20, 22, 72), (3, 3, 24, 18), ((1, 1), (1, 1)), (1, 1), (1, 1), "y", 3),
    ((2, 20, 22, 80), (3, 4, 40, 12), ((1, 1), (1, 1)), (1, 1), (1, 1), "y", 2),
    ((2, 41, 35, 6), (7, 7, 3, 14), ((3, 3), (3, 3)), (2, 2), (1, 1), "y dx", 2),
    ((2, 20, 37, 16), (3, 3, 4, 32), ((1, 1), (1, 1)), (1, 1), (1, 2), "y dx", 4),
]

DW_SHAPES = [
    ((3, 64, 64, 3), (4, 4, 3, 8), ((1, 2), (1, 2)), (1, 1), (1, 1), "dw db"),
    ((9, 28, 28, 1), (5, 5, 1, 6), ((2, 2), (2, 2)), (1, 1), (1, 1), "dw db"),
    ((5, 33, 31, 3), (3, 3, 3, 12), ((1, 1), (1, 1)), (1, 1), (1, 1), "dw db"),
    ((2, 31, 31, 50), (3, 7, 50, 5), ((1, 1), (3, 3)), (1, 1), (1, 1), "dw db"),  # chunks of channels
    ((2, 35, 35, 9), (7, 7, 9, 8), ((3, 3), (3, 3)), (1, 1), (1, 1), "dw db"),
    ((2, 33, 34, 5), (2, 6, 5, 7), ((0, 0), (2, 0)), (1, 1), (1, 1), "dw db"),
    ((2, 33, 34, 3), (4, 2, 3, 5), ((0, 0), (0, 0)), (1, 1), (1, 1), "dw db"),
    ((2, 35, 35, 30), (9, 9, 30, 1), ((4, 4), (4, 4)), (1, 1), (1, 1), "dw db"),  # two parts
    ((2, 97, 97, 3), (7, 7, 3, 8), ((3, 3), (3, 3)), (2, 2), (1, 1), "dw db"),
    ((2, 67, 61, 1), (9, 9, 1, 6), ((3, 3), (3, 3)), (3, 3), (1, 1), "dw db"),
    ((2, 35, 35, 8), (5, 7, 8, 5), ((4, 4), (6, 6)), (1, 1), (2, 2), "dw db"),
    ((2, 63, 81, 3), (5, 7, 3, 5), ((2, 2), (2, 2)), (2, 1), (1, 3), "dw db"),
    ((2, 28, 28, 40), (3, 3, 8, 40), ((1, 1), (1, 1)), (1, 1), (1, 1), "dw db", 5),
    ((2, 35, 37, 21), (3, 3, 3, 21), ((1, 1), (1, 1)), (1, 1), (1, 1), "dw db", 7),
    ((2, 28, 30, 80), (3, 4, 40, 12), ((1, 1), (1, 1)), (1, 1), (1, 1), "dw db", 2),
    *(((3, 24, width, 3), (3, 3 + width % 3, 3, 2 + width % 7), ((2, 2), (2, 2)), (1, 1), (1, 1),
       "dw db") for width in (17, 23, 26, 32, 38)),
]


class Case:
    """One convolution with random arrays, run by the kernels of one instruction set."""

    def __init__(self, x, w, pads, stride, dilation, directions, groups=1, seed=0):
        self.pads, self.stride, self.dilation, self.groups = pads, stride, dilation, groups
        self.directions = directions.split()
        OH, OW = ((n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, pad, k, d, s in
                  zip(x[1:3], pads, w[:2], dilation, stride, strict=True))
        rng = np.random.default_rng(seed)
        self.x, self.w, self.b, self.dy = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in (x, w, w[3:], (x[0], OH, OW, w[3]))
        )

    def plan(self, isa, direct=False):
        plan = _dispatch.Kernels(isa).modules["f"].ConvPlan(
            self.x.shape, self.w.shape, self.dy.shape, self.stride, self.dilation,
            (self.pads[0][0], self.pads[1][0]), self.groups, direct,
        )
        for direction in self.directions if not direct else ():
            if direction != "db":
                plan.take(direction, "wide")
        return plan

    def run(self, plan, threads=2, relu=False):
        """Those of y, dx, dw and db that are computed so."""
        y, dx, dw, db = (np.full_like(a, 7) for a in (self.dy, self.x, self.w, self.b))
        plan.forward(self.x, self.w, self.b, relu, y, threads)
        plan.backward(self.dy, self.x, self.w, dx, dw, db, threads)
        return [{"y": y, "dx": dx, "dw": dw, "db": db}[direction] for direction in self.directions]

    def reference(self):
        """The same as float64 sums."""
        x, w, b, dy = (a.astype(np.float64) for a in (self.x, self.w, self.b, self.dy))
        padded = np.pad(x, ((0, 0), *self.pads, (0, 0)))
        y, dpadded, dw = b + np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)
        for tap in np.ndindex(w.shape[:2]):
            window = (slice(None), *(
                slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in
                zip(tap, self.dilation, dy.shape[1:3], self.stride, strict=True)))
            for g in range(self.groups):
                C, K = (slice(g * n // self.groups, (g + 1) * n // self.groups)
                        for n in (x.shape[3], dy.shape[3]))
                y[..., K] += padded[window][..., C] @ w[tap][:, K]
                dpadded[(*window, C)] += dy[..., K] @ w[tap][:, K].T
                dw[tap][:, K] = np.tensordot(padded[window][..., C], dy[..., K], ([0, 1, 2], [0, 1, 2]))
        (top, _), (left, _) = self.pads
        dx = dpadded[:, top:top + x.shape[1], left:left + x.shape[2]]
        all_of_them = {"y": y, "dx": dx, "dw": dw, "db": dy.sum((0, 1, 2))}
        return [all_of_them[direction] for direction in self.directions]


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", SHAPES + DW_SHAPES, ids=str)
def test_error_is_within_the_rule(shape, isa):
    case = Case(*shape)
    plan = case.plan(isa)
    assert {plan.algorithm(d) for d in case.directions if d != "db"} == {"winograd"}
    for got, want in zip(case.run(plan), case.reference(), strict=True):
        assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("shape", SHAPES + DW_SHAPES, ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(shape):
    case = Case(*shape)
    results = [case.run(case.plan(isa), threads) for isa in WIDE for threads in (1, 2, 3, 8)]
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("shape", [SHAPES[5], DW_SHAPES[4]], ids=str)
def test_a_plan_gives_the_same_bits_again(shape):
    case, other = (Case(*shape, seed=seed) for seed in (0, 1))
    plan = case.plan(KERNELS[0])
    first = case.run(plan)
    other.x[0, 5, 5, 0] = np.nan
    other.run(plan)
    for got, want in zip(case.run(plan), first, strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[5]], ids=str)
def test_relu(shape):
    case = Case(*shape)
    plan = case.plan(KERNELS[0])
    y = case.run(plan)[0]
    assert_array_equal(case.run(plan, relu=True)[0], np.maximum(y, 0))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["x", "w", "b", "dy"])
def test_values_that_are_not_finite_are_where_the_direct_sum_puts_them(name, value, isa):
    for seed, shape in enumerate((*SHAPES[1:9], SHAPES[1], *SHAPES[36:], *DW_SHAPES)):
        case = Case(*shape, seed=seed)
        array = getattr(case, name)
        array.flat[np.random.default_rng(seed).integers(array.size)] = value
        direct = case.run(case.plan(isa, direct=True))
        for got, want in zip(case.run(case.plan(isa)), direct, strict=True):
            assert_array_equal(np.isnan(got), np.isnan(want))
            infinite = np.isinf(want)
            assert_array_equal(np.isinf(got), infinite)
            assert_array_equal(got[infinite], want[infinite])


def test_only_where_it_pays_and_not_when_refused():
    def algorithms(x, w, stride=(1, 1), dilation=(1, 1), groups=1, dtype="f", direct=False):
        y = (x[0], x[1] // stride[0], x[2] // stride[1], w[3])
        plan = _dispatch.active.modules[dtype].ConvPlan(
            x, w, y, stride, dilation, (1, 1), groups, direct)
        return [plan.algorithm(d) for d in ("y", "dx", "dw")]

    assert algorithms((4, 64, 64, 3), (4, 4, 3, 8))[:2] == ["winograd"] * 2
    assert algorithms((4, 64, 64, 3), (3, 9, 3, 8))[:2] == ["winograd"] * 2
    assert algorithms((4, 64, 64, 3), (4, 4, 3, 8), dilation=(1, 2))[:2] == ["winograd"] * 2
    assert algorithms((8, 64, 64, 4), (5, 5, 4, 8), dilation=(2, 1))[:2] == ["winograd"] * 2
    assert algorithms((8, 64, 64, 4), (5, 5, 2, 8), groups=2) == ["winograd"] * 3
    assert algorithms((4, 64, 64, 3), (7, 7, 3, 8), stride=(2, 2))[1] == "winograd"
    assert algorithms((4, 28, 28, 1), (5, 5, 1, 6))[::2] == ["winograd"] * 2
    x, w = (4, 16, 16, 4), (3, 3, 4, 8)
    for refused in (  # more output channels are test_line.py's
        algorithms(x, w, direct=True), algorithms(x, w, dtype="d"),
        algorithms(x, w, stride=(1, 2), dilation=(1, 2)), algorithms(x, (3, 1, 4, 8)),
        algorithms((64, 16, 5, 4), w), algorithms((1, 15, 16, 4), w),
        algorithms(x, w, stride=(2, 2)), algorithms(x, w, dilation=(1, 2)),  # direct is faster
        algorithms((4, 16, 16, 1), (1, 3, 1, 1)),
    ):
        assert refused == ["direct"] * 3
    x = (4, 32, 32, 12)
    assert algorithms((64, 32, 32, 8), (5, 5, 8, 8))[2] == "winograd"
    assert algorithms((16, 52, 55, 8), (3, 3, 4, 6), groups=2)[2] == "winograd"
    assert algorithms(x, (5, 5, 4, 24), groups=3)[2] == "direct"  # half the time: long runs of taps
    for refused in (
        algorithms(x, (5, 5, 12, 8), direct=True), algorithms(x, (5, 5, 12, 8), dtype="d"),
        algorithms(x, (5, 1, 12, 8)), algorithms((1, 15, 32, 12), (5, 5, 12, 8)),
        algorithms((64, 9, 9, 12), (5, 5, 12, 8)),  # bands too short for their sums
    ):
        assert refused[2] == "direct"


# ------------------------------------------------------------- with ReLU and max pooling in one kernel

POOLED = {
    "signs-1": ((3, 64, 64, 3), (4, 4, 3, 8), 8, {"padding": "same"}),
    "lenet-1": ((2, 28, 28, 1), (5, 5, 1, 6), 2, {"padding": "same"}),
    "overlapping": ((2, 27, 35, 3), (5, 5, 3, 3), (3, 5),
                    {"pool_stride": (2, 3), "pool_padding": 1}),
    "many-channels": ((2, 33, 64, 64), (3, 3, 64, 6), (7, 3), {}),
    "tall": ((1, 200, 11, 2), (3, 3, 2, 6), (90, 2), {"padding": 1}),
}


def apart(x, w, b, window, options):
    """Convolution with ReLU, then pooling; the winners are -1 where ReLU cut them off."""
    conv = {name: value for name, value in options.items() if not name.startswith("pool")}
    pool = {name[5:]: value for name, value in options.items() if name.startswith("pool")}
    z = pyconv.conv2d(x, w, b, activation="relu", **conv)
    y, indices = pyconv.max_pool2d(z, window, return_indices=True, **pool)
    return y, np.where(y <= 0, -1, indices)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("name", POOLED)
def test_pooled_equals_the_operations_apart(name, isa, num_threads, rng):
    x_shape, w_shape, window, options = POOLED[name]
    assert pyconv.conv2d_algorithm(
        x_shape, w_shape, padding=options.get("padding", "valid")) == "winograd"
    x, w, b = (rng.standard_normal(shape).astype(np.float32)
               for shape in (x_shape, w_shape, w_shape[3:]))
    for value in (x[0, 0, 0, 0], np.nan, np.inf):
        x[0, x_shape[1] // 2, 7, 0] = value
        y, indices = pyconv.conv2d_max_pool2d(
            x, w, b, window, activation="relu", num_threads=num_threads, **options)
        for got, want in zip((y, indices), apart(x, w, b, window, options), strict=True):
            assert_array_equal(got, want)
