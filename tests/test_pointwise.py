"""1x1 convolutions of few channels: exact on integers, and wherever values are not finite."""

import functools

import numpy as np
import oracle
import pytest
from numpy.testing import assert_array_equal

from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()
WIDE = [isa for isa in KERNELS if isa != "baseline"] or KERNELS
CHANNELS = [(C, K) for C in range(1, 9) for K in range(1, 9)]
# Fewer pixels than a vector, as many, some more, and enough for several items.
PIXELS = [(1, 1, 1), (1, 3, 5), (2, 2, 4), (1, 7, 11), (2, 5, 9)]
MANY = (4, 150, 131)


class Case:
    """Integers in floats, and plans that take this driver."""

    def __init__(self, pixels, C, K, dtype="f"):
        rng = np.random.default_rng([*pixels, C, K])
        self.dtype = dtype
        self.x, self.dy, self.w, self.b = (
            rng.integers(-4, 5, shape).astype(dtype)
            for shape in ((*pixels, C), (*pixels, K), (1, 1, C, K), (K,)))

    def plan(self, isa, driver="point"):
        plan = _dispatch.Kernels(isa).modules[self.dtype].ConvPlan(
            self.x.shape, self.w.shape, self.dy.shape, (1, 1), (1, 1), (0, 0), 1, True)
        plan.take("y", driver)
        plan.take("dx", driver)
        return plan

    def y(self, plan, relu=False, threads=2):
        # One number behind the array would show what is written beyond its end.
        memory = np.full(self.dy.size + 64, 7, self.dtype)
        y = memory[:self.dy.size].reshape(self.dy.shape)
        plan.forward(self.x, self.w, self.b, relu, y, threads)
        assert (memory[self.dy.size:] == 7).all()
        return y

    def dx(self, plan, threads=2):
        dx = np.full(self.x.shape, 7, self.dtype)
        plan.backward(self.dy, self.x, self.w, dx, None, None, threads)
        return dx


@functools.cache
def solved(pixels, C, K):
    """y and dx by the oracle."""
    case = Case(pixels, C, K)
    return (oracle.conv2d(case.x, case.w, case.b),
            oracle.conv2d_backward(case.dy, case.x, case.w)[0])


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("isa", KERNELS)
def test_integers_are_exact(isa, dtype):
    for C, K in CHANNELS:
        for pixels in PIXELS:
            case = Case(pixels, C, K, dtype)
            want, dx = solved(pixels, C, K)
            plan = case.plan(isa)
            assert_array_equal(case.y(plan), want)
            assert_array_equal(case.y(plan, relu=True), np.maximum(want, 0))
            assert_array_equal(case.dx(plan), dx)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize(("C", "K"), [(5, 1), (1, 5), (3, 3), (2, 7), (8, 1)])
def test_same_bits_for_any_number_of_threads_and_instruction_set(C, K, dtype):
    case = Case(MANY, C, K, dtype)
    for name in ("x", "dy", "w"):
        array = getattr(case, name)
        array[...] = np.random.default_rng(1).standard_normal(array.shape)
    for call in (case.y, case.dx):
        results = [call(case.plan(isa), threads=threads) for isa in WIDE for threads in (1, 2, 3, 8)]
        for result in results[1:]:
            assert result.tobytes() == results[0].tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_reaches_its_own_pixel_alone(value, isa):
    for C, K in ((1, 1), (5, 1), (1, 5), (3, 3), (8, 8)):
        case = Case((1, 7, 11), C, K)
        case.w[case.w == 0] = 1  # 0 times infinity would be NaN, where it is right, too
        plan = case.plan(isa)
        before = case.y(plan)
        for pixel in (0, 38, 76):
            case.x.reshape(-1, C)[pixel] = value
            y = case.y(plan).reshape(-1, K)
            assert not np.isfinite(y[pixel]).any()
            others = np.arange(77) != pixel
            assert_array_equal(y[others], before.reshape(-1, K)[others])
            case.x.reshape(-1, C)[pixel] = 0
            before = case.y(plan)


def test_it_is_taken_where_that_is_faster():
    def taken(C, K, direction="y"):
        plan = _dispatch.active.modules["f"].ConvPlan(
            (64, 64, 64, C), (1, 1, C, K), (64, 64, 64, K), (1, 1), (1, 1), (0, 0), 1, False)
        cycles = plan.estimates(direction)
        return min(cycles, key=cycles.get) == "point"

    assert taken(3, 3) and taken(3, 3, "dx")
    assert taken(5, 1) and taken(5, 1, "dx")
    assert not taken(8, 8)
    assert not taken(64, 1)
