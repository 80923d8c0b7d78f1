"""dx of few channels by products of all taps: exact on integers, and wherever values are not finite."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()
WIDE = [isa for isa in KERNELS if isa != "baseline"] or KERNELS

# x, w, and where they are not these: stride=1, dilation=1, before=0, after=0.
SHAPES = [
    ((2, 9, 13, 1), (5, 5, 1, 6), {"before": (2, 2), "after": (2, 2)}),
    ((3, 14, 14, 6), (5, 5, 6, 16), {}),
    ((2, 12, 11, 3), (3, 3, 3, 32), {"before": (1, 1), "after": (1, 1)}),
    ((2, 8, 8, 8), (2, 2, 8, 16), {"after": (1, 1)}),
    ((1, 21, 70, 3), (7, 7, 3, 20), {"stride": (2, 2), "before": (3, 3), "after": (3, 3)}),
    ((2, 17, 19, 5), (2, 3, 5, 7), {"stride": (3, 2)}),             # rows that no tap reaches
    ((2, 17, 19, 4), (3, 2, 4, 9), {"stride": (1, 3), "after": (0, 2)}),  # columns
    ((1, 11, 23, 20), (4, 4, 20, 3), {"stride": (2, 2), "before": (1, 1), "after": (1, 1)}),
    ((2, 10, 9, 12), (1, 7, 12, 5), {"before": (0, 3), "after": (0, 3)}),
    ((2, 10, 9, 2), (3, 1, 2, 33), {"before": (1, 0), "after": (1, 0)}),
    ((1, 40, 9, 3), (5, 3, 3, 17), {"dilation": (3, 1), "before": (6, 1), "after": (6, 1)}),
    ((1, 33, 12, 2), (3, 4, 2, 40), {"stride": (2, 1), "dilation": (3, 1), "before": (4, 2)}),
    ((1, 20, 16, 40), (5, 3, 40, 33), {"dilation": (2, 2)}),
    ((2, 13, 30, 3), (3, 4, 3, 9), {"dilation": (1, 3), "before": (1, 4), "after": (1, 5)}),
    ((1, 20, 41, 5), (2, 3, 5, 8), {"stride": (2, 2), "dilation": (2, 4), "before": (2, 3)}),
    ((1, 9, 20, 18), (3, 3, 18, 7), {"stride": (1, 2), "dilation": (2, 2), "before": (1, 1)}),
    ((1, 5, 6, 3), (3, 3, 3, 8), {"before": (4, 5), "after": (5, 4)}),  # padding beyond the filter
    ((2, 16, 6, 1), (16, 2, 1, 3), {}),
    ((1, 90, 50, 3), (3, 3, 3, 64), {"before": (1, 1), "after": (1, 1)}),  # bands
    ((1, 64, 40, 6), (5, 5, 6, 32), {"stride": (2, 2)}),
    ((2, 3, 1, 1), (2, 2, 1, 1), {"before": (1, 1), "after": (1, 1)}),
]


class Case:
    """One convolution of integers in floats, with the kernels of one instruction set."""

    def __init__(self, x, w, options, dtype, seed=0):
        self.stride = options.get("stride", (1, 1))
        self.dilation = options.get("dilation", (1, 1))
        self.before = options.get("before", (0, 0))
        after = options.get("after", (0, 0))
        OH, OW = ((n + a + b - (k - 1) * d - 1) // s + 1 for n, k, s, d, a, b in zip(
            x[1:3], w[:2], self.stride, self.dilation, self.before, after, strict=True))
        rng = np.random.default_rng(seed)
        self.dtype, self.x = dtype, x
        self.w, self.b, self.dy = (rng.integers(-4, 5, shape).astype(dtype)
                                   for shape in (w, x[3:], (x[0], OH, OW, w[3])))

    def plan(self, isa, driver="scatter"):
        plan = _dispatch.Kernels(isa).modules[self.dtype].ConvPlan(
            self.x, self.w.shape, self.dy.shape, self.stride, self.dilation, self.before, 1, True)
        plan.take("dx", driver)
        return plan

    def dx(self, plan, threads=2):
        dx = np.full(self.x, 7, self.dtype)
        plan.backward(self.dy, np.empty(self.x, self.dtype), self.w, dx, None, None, threads)
        return dx

    def transposed(self, plan, relu, threads=2):
        y = np.full(self.x, 7, self.dtype)
        plan.transpose(self.dy, self.w, self.b, relu, y, threads)
        return y

    def reference(self):
        """dx as sums over the pixels of dy, one by one."""
        dx = np.zeros(self.x)
        for n, oh, ow, kh, kw in np.ndindex(*self.dy.shape[:3], *self.w.shape[:2]):
            h = oh * self.stride[0] + kh * self.dilation[0] - self.before[0]
            w = ow * self.stride[1] + kw * self.dilation[1] - self.before[1]
            if 0 <= h < self.x[1] and 0 <= w < self.x[2]:
                dx[n, h, w] += self.w[kh, kw].astype(float) @ self.dy[n, oh, ow].astype(float)
        return dx


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_are_exact(shape, dtype):
    case = Case(*shape, dtype)
    want = case.reference()
    for isa in KERNELS:
        for threads in (1, 2, 3):
            assert_array_equal(case.dx(case.plan(isa), threads), want)
        assert_array_equal(case.transposed(case.plan(isa), False), want + case.b)
        assert_array_equal(case.transposed(case.plan(isa), True), np.maximum(want + case.b, 0))


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(shape, dtype):
    case = Case(*shape, dtype)
    case.w = np.random.default_rng(1).standard_normal(case.w.shape).astype(dtype)
    results = [case.dx(case.plan(isa), threads) for isa in WIDE for threads in (1, 2, 3, 8)]
    for result in results[1:]:
        assert result.tobytes() == results[0].tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "dy"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_that_are_not_finite_are_where_the_gather_puts_them(shape, name, value, isa):
    case = Case(*shape, "f")
    array = getattr(case, name)
    array.flat[np.random.default_rng(3).integers(array.size)] = value
    assert_array_equal(case.dx(case.plan(isa)), case.dx(case.plan(isa, "direct")))


def test_a_plan_forgets_the_call_before():
    case, other = (Case(*SHAPES[4], "f", seed) for seed in (0, 1))
    plan = case.plan(KERNELS[0])
    other.dy[:] = np.nan
    case.dx(plan)
    other.dx(plan)
    assert_array_equal(case.dx(plan), case.reference())


def test_it_is_taken_where_that_is_faster():
    def taken(*shape):
        case = Case(*shape, "f")
        plan = _dispatch.active.modules["f"].ConvPlan(
            case.x, case.w.shape, case.dy.shape, case.stride, case.dilation, case.before, 1, False)
        return plan.scatters

    assert taken((64, 14, 14, 6), (5, 5, 6, 16), {})
    assert taken((64, 42, 9, 1), (5, 5, 1, 24), {"stride": (3, 3)})
    assert not taken((8, 28, 28, 64), (1, 1, 64, 64), {})
    assert not taken((64, 47, 13, 32), (5, 3, 32, 2), {})
