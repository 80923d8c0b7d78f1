"""Winograd F(4x4, 3x3) and F(2x2, 3x3): against float64 sums, and the direct ones where bits matter."""

import numpy as np
import pytest

from pyconv import _dispatch

KERNELS = _dispatch.available_kernels()
LEAST = 128  # outputs from which all three directions take Winograd

# H, W, C_in, C_out, ((top, bottom), (left, right)), and dilation if not 1
SHAPES = [
    *((size, size, 16 + size, 40 - size, ((1, 1), (1, 1))) for size in range(3, 18)),
    (17, 17, 70, 33, ((0, 0), (0, 0))),
    (16, 12, 16, 70, ((2, 2), (2, 2))),
    (11, 9, 67, 64, ((0, 1), (2, 0))),
    (10, 13, 32, 31, ((3, 0), (0, 4))),
    (2, 30, 20, 48, ((1, 1), (1, 1))),
    (5, 7, 130, 150, ((1, 0), (1, 2))),  # several chunks of both channels
    (8, 8, 350, 16, ((1, 1), (1, 1))),
    (9, 11, 20, 33, ((2, 2), (2, 2)), (2, 2)),
    (13, 10, 16, 40, ((3, 3), (1, 1)), (3, 1)),
    (12, 17, 33, 24, ((0, 0), (0, 0)), (2, 5)),
    (3, 30, 20, 48, ((4, 4), (2, 3)), (4, 2)),  # fewer rows than the dilation
    (19, 33, 70, 64, ((0, 9), (7, 1)), (4, 4)),
]
# One image of few tiles: y and dx take F(2x2, 3x3).
FEW = [
    (7, 7, 16, 16, ((1, 1), (1, 1))),
    (8, 8, 33, 70, ((1, 1), (1, 1))),
    (4, 13, 130, 150, ((1, 1), (1, 1))),
    (9, 8, 20, 48, ((0, 1), (2, 0))),
    (7, 8, 64, 128, ((2, 1), (1, 2))),
    (5, 6, 33, 40, ((2, 2), (2, 2)), (2, 2)),
]


class Case:
    """One convolution with random arrays, run by the kernels of one instruction set."""

    def __init__(self, H, W, C, K, pads, dilation=(1, 1), seed=0, least=LEAST):
        OH, OW = (n + sum(pad) - 2 * d for n, pad, d in zip((H, W), pads, dilation, strict=True))
        N = -(-least // min(H * W, OH * OW))
        rng = np.random.default_rng(seed)
        self.pads, self.dilation = pads, dilation
        self.x, self.w, self.b, self.dy = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((N, H, W, C), (3, 3, C, K), (K,), (N, OH, OW, K))
        )

    def plan(self, isa, direct=False):
        plan = _dispatch.Kernels(isa).modules["f"].ConvPlan(
            self.x.shape, self.w.shape, self.dy.shape, (1, 1), self.dilation,
            (self.pads[0][0], self.pads[1][0]), 1, direct,
        )
        for direction in () if direct else ("y", "dx", "dw"):
            plan.take(direction, "winograd")
        return plan

    def run(self, plan, threads=2, relu=False):
        """y, dx, dw and db."""
        results = [np.full_like(a, 7) for a in (self.dy, self.x, self.w, self.b)]
        y, dx, dw, db = results
        plan.forward(self.x, self.w, self.b, relu, y, threads)
        plan.backward(self.dy, self.x, self.w, dx, dw, db, threads)
        return results

    def reference(self):
        """y, dx, dw and db as float64 sums."""
        x, w, b, dy = (a.astype(np.float64) for a in (self.x, self.w, self.b, self.dy))
        padded = np.pad(x, ((0, 0), *self.pads, (0, 0)))
        y, dpadded, dw = b + np.zeros(dy.shape), np.zeros(padded.shape), np.empty(w.shape)
        for kh, kw in np.ndindex(3, 3):
            row, column = kh * self.dilation[0], kw * self.dilation[1]
            window = np.s_[:, row:row + dy.shape[1], column:column + dy.shape[2]]
            y += padded[window] @ w[kh, kw]
            dpadded[window] += dy @ w[kh, kw].T
            dw[kh, kw] = np.tensordot(padded[window], dy, axes=([0, 1, 2], [0, 1, 2]))
        (top, _), (left, _) = self.pads
        dx = dpadded[:, top:top + x.shape[1], left:left + x.shape[2]]
        return y, dx, dw, dy.sum(axis=(0, 1, 2))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_within_the_rule(shape, isa):
    case = Case(*shape)
    plan = case.plan(isa)
    assert [plan.algorithm(d) for d in ("y", "dx", "dw")] == ["winograd"] * 3
    for got, want in zip(case.run(plan), case.reference(), strict=True):
        assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_few_tiles(shape, isa):
    case = Case(*shape, least=1)
    plan = case.plan(isa)
    assert [plan.algorithm(d) for d in ("y", "dx")] == ["winograd"] * 2
    for _ in range(2):  # the second time with the filters of the first
        for got, want in zip(case.run(plan)[:2], case.reference(), strict=False):
            assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("isa", KERNELS)
def test_a_dilation_far_beyond_the_image(isa):
    case = Case(10, 11, 16, 24, ((100, 100), (90, 90)), (100, 90))
    direct = case.run(case.plan(isa, direct=True))
    for got, want in zip(case.run(case.plan(isa)), direct, strict=True):
        assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("shape", SHAPES + FEW, ids=str)
def test_same_bits_for_any_number_of_threads_and_instruction_set(shape):
    case = Case(*shape, least=1 if shape in FEW else LEAST)
    wide = [isa for isa in KERNELS if isa != "baseline"] or KERNELS
    results = [case.run(case.plan(isa), threads) for isa in wide for threads in (1, 2, 3, 8)]
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert got.tobytes() == want.tobytes()


def test_a_plan_gives_the_same_bits_again():
    case, other = (Case(11, 9, 33, 70, ((1, 1), (1, 1)), seed=seed) for seed in (0, 1))
    plan = case.plan(KERNELS[0])
    first = case.run(plan)
    other.run(plan)
    for got, want in zip(case.run(plan), first, strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("channels", [(16, 32), (33, 70), (150, 140)], ids=str)
def test_a_filter_changed_in_place_is_noticed(channels, isa):
    case = Case(9, 10, *channels, ((1, 1), (1, 1)))
    plan = case.plan(isa)
    last = case.run(plan)[0].tobytes()
    places = np.random.default_rng(1).integers(case.w.size, size=6)
    for place in (0, *places, case.w.size - 1):
        case.w.flat[place] += 1
        results = case.run(plan)
        assert results[0].tobytes() != last
        last = results[0].tobytes()
        for got, want in zip(results, case.run(case.plan(isa)), strict=True):
            assert got.tobytes() == want.tobytes()


def test_relu():
    case = Case(9, 10, 16, 40, ((1, 1), (1, 1)))
    plan = case.plan(KERNELS[0])
    y = case.run(plan)[0]
    np.testing.assert_array_equal(case.run(plan, relu=True)[0], np.maximum(y, 0))


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["x", "w", "b", "dy"])
@pytest.mark.parametrize("least", [LEAST, 1], ids=["many", "few"])
@pytest.mark.parametrize("dilation", [(1, 1), (3, 2)], ids=str)
def test_values_that_are_not_finite_are_where_the_direct_sum_puts_them(
        name, value, isa, least, dilation):
    for seed in range(6):
        case = Case(9, 7, 17, 33, ((1, 1), (2, 0)), dilation, seed, least)
        array = getattr(case, name)
        array.flat[np.random.default_rng(seed).integers(array.size)] = value
        direct = case.run(case.plan(isa, direct=True))
        for got, want in zip(case.run(case.plan(isa)), direct, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            infinite = np.isinf(want)
            np.testing.assert_array_equal(np.isinf(got), infinite)
            np.testing.assert_array_equal(got[infinite], want[infinite])


def test_a_sum_that_is_nan_is_nan_after_relu():
    case = Case(8, 8, 16, 16, ((1, 1), (1, 1)))
    case.x[0, 3, 3, 5] = np.nan
    y = case.run(case.plan(KERNELS[0]), relu=True)[0]
    expected = np.zeros(y.shape, bool)
    expected[0, 2:5, 2:5] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_only_where_it_pays_and_not_when_refused():
    def algorithms(x, w, stride=(1, 1), dilation=(1, 1), groups=1, dtype="f", direct=False):
        y = (*x[:3], w[3])
        plan = _dispatch.active.modules[dtype].ConvPlan(
            x, w, y, stride, dilation, (1, 1), groups, direct)
        return [plan.algorithm(d) for d in ("y", "dx", "dw")]

    x, w = (4, 16, 16, 32), (3, 3, 32, 32)
    assert algorithms(x, w) == ["winograd"] * 3
    assert algorithms((1, 8, 8, 32), w) == ["winograd"] * 3
    assert algorithms((8, 14, 14, 256), (3, 3, 256, 256)) == ["winograd"] * 3  # filters of 9 MB
    for refused in (
        algorithms(x, w, direct=True), algorithms(x, w, dtype="d"),
        algorithms((1, 2, 2, 32), w),
    ):
        assert refused == ["direct"] * 3
    for rest in (  # dilated; or dw takes the one-dimensional one
        algorithms(x, w, dilation=(2, 3)),
        algorithms(x, w, stride=(2, 1)), algorithms(x, (3, 3, 16, 32), groups=2),
        algorithms(x, (3, 5, 32, 32)), algorithms((4, 16, 16, 8), (3, 3, 8, 32)),
    ):
        assert rest[2] == "winograd"


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("channels", [(16, 16), (20, 37), (130, 150)], ids=str)
@pytest.mark.parametrize("groups", [2, 3])
def test_groups_are_convolutions_of_their_own(groups, channels, isa):
    """Bit for bit: the sums of an output run in the same order whatever lies beside it."""
    cases = [Case(9, 10, *channels, ((1, 1), (2, 0)), seed=seed) for seed in range(groups)]
    x, w, b, dy = (
        np.ascontiguousarray(np.concatenate([getattr(case, name) for case in cases], axis=-1))
        for name in ("x", "w", "b", "dy")
    )
    plan = _dispatch.Kernels(isa).modules["f"].ConvPlan(
        x.shape, w.shape, dy.shape, (1, 1), (1, 1), (1, 2), groups)
    assert plan.algorithm("y") == plan.algorithm("dx") == "winograd"
    y, dx = np.full_like(dy, 7), np.full_like(x, 7)
    for _ in range(2):  # where filters are kept: transformed, then found again
        plan.forward(x, w, b, False, y, 2)
        plan.backward(dy, x, w, dx, None, None, 2)
        alone = [case.run(case.plan(isa)) for case in cases]
        assert y.tobytes() == np.concatenate([result[0] for result in alone], axis=-1).tobytes()
        assert dx.tobytes() == np.concatenate([result[1] for result in alone], axis=-1).tobytes()
