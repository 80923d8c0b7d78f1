"""One-dimensional Winograd for dw against float64 sums, and against the direct algorithm."""

import numpy as np
import pytest

from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()

# x shape, w shape, stride, groups, ((top, bottom), (left, right)), and dilation if not 1
SHAPES = [
    ((2, 32, 32, 3), (3, 3, 3, 32), (1, 1), 1, ((1, 1), (1, 1))),
    ((64, 7, 9, 12), (3, 3, 12, 9), (1, 1), 1, ((0, 0), (1, 2))),
    ((4, 20, 23, 5), (5, 5, 5, 24), (1, 1), 1, ((2, 2), (2, 2))),
    ((40, 3, 7, 6), (4, 4, 6, 70), (1, 1), 1, ((2, 1), (0, 0))),
    ((2, 40, 41, 3), (7, 7, 3, 64), (2, 2), 1, ((3, 3), (3, 3))),
    ((3, 17, 17, 64), (1, 7, 64, 40), (1, 1), 1, ((0, 0), (3, 3))),
    ((1, 21, 22, 40), (5, 5, 40, 100), (1, 1), 1, ((0, 0), (0, 0))),  # several chunks of both
    ((3, 29, 31, 12), (3, 5, 12, 33), (3, 2), 1, ((0, 1), (2, 3))),
    ((3, 29, 31, 8), (5, 4, 8, 20), (2, 1), 1, ((0, 0), (3, 3))),
    ((2, 16, 15, 48), (3, 3, 16, 30), (1, 1), 3, ((1, 1), (1, 1))),
    ((2, 30, 37, 2), (9, 9, 2, 17), (1, 1), 1, ((4, 4), (4, 4))),
    # two taps, with 2, 3 and 4 pairs of points; the last tile of a row full or not
    ((3, 16, 11, 20), (2, 2, 20, 33), (1, 1), 1, ((0, 0), (0, 0))),
    ((2, 16, 28, 12), (4, 4, 12, 40), (2, 2), 1, ((1, 1), (1, 1))),
    ((2, 9, 27, 24), (3, 2, 24, 17), (1, 1), 1, ((1, 1), (0, 1))),
    ((2, 20, 52, 9), (3, 3, 9, 24), (2, 2), 1, ((1, 1), (0, 1))),
    ((8, 25, 23, 1), (7, 7, 1, 20), (1, 1), 1, ((0, 0), (0, 0)), (2, 2)),
    ((16, 14, 15, 24), (5, 5, 24, 12), (1, 1), 1, ((4, 4), (2, 3)), (2, 1)),
    ((3, 5, 31, 12), (1, 7, 12, 40), (1, 1), 1, ((0, 0), (9, 8)), (6, 3)),
    ((3, 3, 40, 20), (3, 3, 10, 18), (1, 1), 2, ((4, 4), (2, 2)), (4, 2)),  # fewer rows than that
    ((2, 31, 33, 9), (5, 4, 9, 33), (2, 1), 1, ((6, 0), (3, 1)), (3, 2)),
    ((2, 30, 61, 6), (3, 5, 6, 20), (1, 2), 1, ((2, 2), (3, 7)), (2, 3)),
]


class Case:
    """One convolution with random arrays; dw and db by the kernels of one instruction set."""

    def __init__(self, x, w, stride, groups, pads, dilation=(1, 1), seed=0):
        sizes = [(x[1 + i] + sum(pads[i]) - (w[i] - 1) * dilation[i] - 1) // stride[i] + 1
                 for i in range(2)]
        rng = np.random.default_rng(seed)
        self.stride, self.groups, self.pads, self.dilation = stride, groups, pads, dilation
        self.x, self.w, self.dy = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in (x, w, (x[0], *sizes, w[3])))

    def plan(self, isa, direct=False):
        plan = _dispatch.Kernels(isa).modules["f"].ConvPlan(
            self.x.shape, self.w.shape, self.dy.shape, self.stride, self.dilation,
            (self.pads[0][0], self.pads[1][0]), self.groups, direct)
        plan.take("dw", "direct" if direct else "rows")
        return plan

    def run(self, plan, threads=2):
        dw, db = np.full_like(self.w, 7), np.full(self.w.shape[3], 7, np.float32)
        plan.backward(self.dy, self.x, self.w, None, dw, db, threads)
        return dw, db

    def reference(self):
        """dw and db as float64 sums."""
        x, dy = self.x.astype(np.float64), self.dy.astype(np.float64)
        x = np.pad(x, ((0, 0), *self.pads, (0, 0)))
        dw = np.empty(self.w.shape)
        C, K = self.w.shape[2], self.w.shape[3] // self.groups
        for kh, kw, g in np.ndindex(*self.w.shape[:2], self.groups):
            window = x[:, kh * self.dilation[0]::self.stride[0], kw * self.dilation[1]::self.stride[1],
                       g * C:(g + 1) * C]
            dw[kh, kw, :, g * K:(g + 1) * K] = np.tensordot(
                window[:, :dy.shape[1], :dy.shape[2]], dy[..., g * K:(g + 1) * K],
                axes=([0, 1, 2], [0, 1, 2]))
        return dw, dy.sum(axis=(0, 1, 2))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_within_the_rule(shape, isa):
    case = Case(*shape)
    plan = case.plan(isa)
    assert plan.algorithm("dw") == "winograd"
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


def test_a_plan_gives_the_same_bits_again():
    case, other = (Case(*SHAPES[4], seed=seed) for seed in (0, 1))
    plan = case.plan(KERNELS[0])
    first = case.run(plan)
    other.run(plan)
    for got, want in zip(case.run(plan), first, strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["x", "dy"])
def test_values_that_are_not_finite_are_where_the_direct_sum_puts_them(name, value, isa):
    for seed, shape in enumerate(SHAPES):
        case = Case(*shape, seed=seed)
        array = getattr(case, name)
        array.flat[np.random.default_rng(seed).integers(array.size)] = value
        direct = case.run(case.plan(isa, direct=True))
        for got, want in zip(case.run(case.plan(isa)), direct, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            infinite = np.isinf(want)
            np.testing.assert_array_equal(np.isinf(got), infinite)
            np.testing.assert_array_equal(got[infinite], want[infinite])


def test_only_where_it_pays_and_not_when_refused():
    def algorithm(x, w, stride=(1, 1), dilation=(1, 1), groups=1, dtype="f", direct=False):
        y = (x[0], x[1] // stride[0], x[2] // stride[1], w[3])
        plan = _dispatch.active.modules[dtype].ConvPlan(
            x, w, y, stride, dilation, (2, 2), groups, direct)
        return plan.algorithm("dw")

    x, w = (2, 16, 16, 12), (5, 5, 12, 24)
    assert algorithm(x, w) == algorithm(x, w, dilation=(2, 2)) == "winograd"
    for refused in (
        algorithm(x, w, direct=True), algorithm(x, w, dtype="d"),
        algorithm((1, 4, 4, 12), w), algorithm(x, (5, 1, 12, 24)),  # 12 or fewer: test_line_wide.py
        algorithm(x, (3, 3, 12, 24), stride=(2, 2)),
        algorithm((2, 16, 16, 1), (3, 3, 1, 24)),
    ):
        assert refused == "direct"


@pytest.mark.parametrize(
    "kernel, stride, C_out, direction, driver",
    [((3, 1), (1, 1), 8, "dw", "rows"), ((5, 5), (1, 1), 8, "y", "winograd"),
     ((3, 3), (2, 2), 8, "dw", "winograd"), ((1, 2), (3, 3), 8, "dx", "line"),
     ((3, 3), (1, 1), 8, "y", "scatter"), ((3, 3), (1, 1), 8, "dw", "line"),
     ((3, 3), (1, 1), 9, "y", "wide"), ((3, 3), (1, 1), 13, "dw", "wide"),
     ((3, 1), (1, 1), 8, "y", "line"), ((3, 3), (1, 1), 8, "y", "magic")])
def test_a_plan_refuses_drivers_that_cannot(kernel, stride, C_out, direction, driver, isa):
    outputs = [(12 - k) // s + 1 for k, s in zip(kernel, stride, strict=True)]
    plan = _dispatch.Kernels(isa).modules["f"].ConvPlan(
        (1, 12, 12, 8), (*kernel, 8, C_out), (1, *outputs, C_out), stride, (1, 1), (0, 0), 1)
    assert driver not in plan.estimates(direction)
    with pytest.raises(ValueError, match=f"'{driver}' cannot compute {direction} .* take one of"):
        plan.take(direction, driver)
