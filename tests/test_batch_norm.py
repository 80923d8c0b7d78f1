"""Batch normalization against the oracle, within bounds derived from its sums.

A channel's sum adds at most `ADDS` numbers of the dtype (64 rows, and folding 128 pixels, beside a
last row), then goes on in double. The squares are taken about a value so near to the mean that they
sum to at most 20 times the variance.
"""

import cases
import numpy as np
import oracle
import pytest
from numpy.testing import assert_array_equal

import pyconv
from pyconv import _dispatch, functional

ADDS = 64 + 7 + 1
DOUBLE = 2.0**-52

SHAPES = [
    (1, 1, 1, 1), (2, 1, 1, 3), (1, 3), (7, 16), (40, 5), (2, 3, 5, 3), (3, 4, 4, 17), (2, 5, 7, 31),
    (2, 5, 6, 33), (1, 4, 4, 129), (3, 1, 1, 301), (2, 20, 21, 12), (3, 30, 31, 3), (2, 23, 31, 16),
]  # fmt: skip
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_end = pytest.mark.parametrize("activation", [None, "relu"])
each_residual = pytest.mark.parametrize("residual", [False, True])


def arrays(shape, dtype, rng):
    """x, gamma, beta, residual and dy; the channels of x lie around different values."""
    C = shape[-1]
    x = rng.standard_normal(shape) * rng.uniform(0.5, 2, C) + 20 * rng.standard_normal(C)
    gamma, beta = rng.uniform(-2, 2, C), rng.standard_normal(C)
    rest = rng.standard_normal(shape), rng.standard_normal(shape)
    return tuple(array.astype(dtype) for array in (x, gamma, beta, *rest))


@each_shape
def test_statistics(shape, dtype, isa, rng):
    x, gamma, beta, *_ = arrays(shape, dtype, rng)
    _, mean, var = pyconv.batch_norm(x, gamma, beta)
    _, wanted, wanted_var = oracle.batch_norm(x, gamma, beta)
    eps = np.finfo(dtype).eps
    around = abs(x.astype(float) - wanted).reshape(-1, shape[-1])
    assert (mean.dtype, mean.shape) == (dtype, shape[-1:])
    assert np.all(abs(mean - wanted) <= eps * (abs(wanted) + ADDS * 2 * around.max(0)))
    assert np.all(abs(var - wanted_var) <= eps * (1 + 20 * (ADDS + 3)) * wanted_var)


@each_shape
def test_statistics_of_integers(shape, dtype, isa, rng):
    """Sums of integers are exact; the rest is done in double, and rounded.

    In double a variance is what squares that are up to 20 times as large leave: two roundings of the
    19/20 that are subtracted, and some of what is left.
    """
    x = cases.integers(rng, shape, dtype, largest=9)
    ones = np.ones(shape[-1], dtype)
    _, mean, var = pyconv.batch_norm(x, ones, ones)
    _, wanted, wanted_var = oracle.batch_norm(x, ones, ones)
    eps = np.finfo(dtype).eps
    assert np.all(abs(mean - wanted) <= eps * abs(wanted) + 4 * DOUBLE * 9)
    assert np.all(abs(var - wanted_var) <= (eps + (2 * 19 + 6) * DOUBLE) * wanted_var)


@each_residual
@each_end
@each_shape
def test_outputs(shape, activation, residual, dtype, isa, rng):
    x, gamma, beta, r, _ = arrays(shape, dtype, rng)
    options = {"activation": activation, "residual": r if residual else None, "epsilon": 0.01}
    y, mean, var = pyconv.batch_norm(x, gamma, beta, **options)
    wanted, *_ = oracle.batch_norm(x, gamma, beta, mean=mean, var=var, **options)
    sizes = abs((x.astype(float) - mean) * gamma / np.sqrt(var + 0.01)) + abs(beta)
    sizes += abs(r) if residual else 0
    assert y.dtype == dtype
    assert np.all(abs(y - wanted) <= 4 * np.finfo(dtype).eps * sizes)
    again = pyconv.batch_norm(x, gamma, beta, mean=mean, var=var, **options)
    assert_array_equal(again, y)


@each_residual
@each_end
@each_shape
def test_gradients(shape, activation, residual, dtype, isa, rng):
    x, gamma, beta, r, dy = arrays(shape, dtype, rng)
    y, mean, var = pyconv.batch_norm(
        x, gamma, beta, activation=activation, residual=r if residual else None
    )
    need = ("x", "gamma", "beta", *(("residual",) if residual else ()))
    found = pyconv.batch_norm_backward(
        dy, x, gamma, beta, mean, var, activation=activation, y=y if residual else None, need=need
    )
    mask = y if activation else None
    wanted = oracle.batch_norm_backward(dy, x, gamma, mean, var, y=mask)
    eps, pixels = np.finfo(dtype).eps, x.size // shape[-1]
    inverse = 1 / np.sqrt(var.astype(float) + 1e-3)
    n, g = abs(x.astype(float) - mean) * inverse, abs(wanted[3].astype(float))
    rows = tuple(range(len(shape) - 1))
    sums = (g * n).sum(rows), g.sum(rows)
    bounds = [
        (ADDS + 9) * abs(gamma) * inverse * (g + sums[1] / pixels + n * sums[0] / pixels),
        (ADDS + 4) * sums[0],
        (ADDS + 1) * sums[1],
    ]
    for a, b, bound in zip(found, wanted, bounds, strict=False):
        assert a.dtype == dtype
        assert np.all(abs(a - b) <= eps * bound)
    if residual:
        assert_array_equal(found[3], wanted[3])
    else:
        assert found[3] is None


@each_end
def test_gradients_are_derivatives(activation, rng):
    x, gamma, beta, r, dy = arrays((3, 2, 4, 3), np.float64, rng)
    options = {"residual": r, "activation": activation}
    y, mean, var = pyconv.batch_norm(x, gamma, beta, **options)
    gradients = pyconv.batch_norm_backward(
        dy, x, gamma, beta, mean, var, activation=activation, y=y,
        need=("x", "gamma", "beta", "residual"),
    )  # fmt: skip
    for array, gradient in zip((x, gamma, beta, r), gradients, strict=True):
        direction = rng.standard_normal(array.shape)
        ends = []
        for step in 1e-6, -1e-6:
            array += step * direction
            ends.append((pyconv.batch_norm(x, gamma, beta, **options)[0] * dy).sum())
            array -= step * direction
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("shape", "offset"), [((64, 40, 41, 16), 0), ((30, 64, 64, 20), 100), ((9, 300, 301, 3), 3000)]
)
def test_many_pixels_on_any_number_of_threads(shape, offset, isa, rng):
    """Blocks, items of several blocks, and an end in the middle of each."""
    x = (rng.standard_normal(shape) + offset).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    gamma, beta = rng.standard_normal((2, shape[-1])).astype(np.float32)
    found = []
    for num_threads in cases.THREADS:
        options = {"activation": "relu", "num_threads": num_threads}
        y, mean, var = pyconv.batch_norm(x, gamma, beta, **options)
        found.append((y, mean, var, *pyconv.batch_norm_backward(
            dy, x, gamma, beta, mean, var, **options)[:3]))  # fmt: skip
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_array_equal(a, b)
    values = x.reshape(-1, shape[-1]).astype(float)
    _, mean, var, *_ = found[0]
    eps, wanted = np.finfo(np.float32).eps, values.var(0)
    assert np.all(abs(mean - values.mean(0)) <= eps * (abs(offset) + 1 + ADDS * 10))
    assert np.all(abs(var - wanted) <= eps * (1 + 20 * (ADDS + 3)) * wanted)


def test_first_pixel_far_from_all_others(dtype, isa, rng):
    """Squares about it would lose the variance of an item; a second try takes them about the mean."""
    x = rng.standard_normal((1, 30, 30, 16)).astype(dtype)
    x[0, 0, 0] = 1e4
    ones = np.ones(16, dtype)
    var = pyconv.batch_norm(x, ones, ones)[2]
    wanted = x.astype(float).var((0, 1, 2))
    assert np.all(abs(var - wanted) <= np.finfo(dtype).eps * (1 + 20 * (ADDS + 3)) * wanted)


def test_moving_statistics(dtype, isa, rng):
    x, gamma, beta, *_ = arrays((2, 3, 4, 5), dtype, rng)
    moving = np.full(5, 3, dtype), np.full(5, 7, dtype)
    _, mean, var = pyconv.batch_norm(x, gamma, beta, moving=moving, momentum=0.75)
    eps = np.finfo(dtype).eps
    for array, start, new in zip(moving, (3, 7), (mean, var), strict=True):
        wanted = 0.75 * start + 0.25 * new.astype(float)
        assert np.all(abs(array - wanted) <= eps * (start + abs(new)))


def test_empty_batch_moves_nothing(dtype):
    moving = np.full(5, 3, dtype), np.full(5, 7, dtype)
    ones = np.ones(5, dtype)
    y, mean, var = pyconv.batch_norm(np.ones((0, 2, 2, 5), dtype), ones, ones, moving=moving)
    assert y.shape == (0, 2, 2, 5)
    assert_array_equal([mean, var, *moving], np.repeat([[0], [0], [3], [7]], 5, axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 100, 419])
@pytest.mark.parametrize("C", [1, 3, 16, 17])
def test_nan_and_infinity_stay_in_their_channel(bad, place, C, dtype, isa, rng):
    x, gamma, beta, _, dy = arrays((2, 14, 15, C), dtype, rng)
    clean = pyconv.batch_norm(x, gamma, beta, activation="relu")
    x.reshape(-1, C)[place, C // 2] = bad
    y, mean, var = pyconv.batch_norm(x, gamma, beta, activation="relu")
    spoiled = np.arange(C) == C // 2
    assert_array_equal(mean[C // 2], bad)
    assert np.isnan(var[C // 2])
    assert_array_equal(np.isnan(y), np.broadcast_to(spoiled, y.shape))
    for a, b in zip((y, mean, var), clean, strict=True):
        assert_array_equal(a[..., ~spoiled], b[..., ~spoiled])
    dx, dgamma, _, _ = pyconv.batch_norm_backward(dy, x, gamma, beta, mean, var, activation="relu")
    assert_array_equal(np.isnan(dx), np.broadcast_to(spoiled, y.shape))
    assert_array_equal(np.isnan(dgamma), spoiled)


def test_given_statistics_keep_nan_and_infinity_at_their_place(dtype, isa):
    for C in 1, 3, 16, 17:
        x = np.zeros((2, 3, 5, C), dtype)
        x[1, 2, 3, C // 2], x[0, 0, 0, 0] = np.nan, np.inf
        ones = np.ones(C, dtype)
        y = pyconv.batch_norm(x, ones, ones, mean=ones, var=ones, activation="relu")
        assert_array_equal(np.isnan(y), np.isnan(x))
        assert_array_equal(np.isposinf(y), np.isposinf(x))


@pytest.mark.parametrize("shape", [(101, 17), (5, 301), (3000, 16)], ids=str)
@pytest.mark.parametrize("over", ["dy", "x", "dr"])
def test_outputs_may_lie_over_inputs(shape, over, dtype, isa, rng):
    """As a step that plans its memory does: y over the residual, dr over dy, dx over one of three."""
    C = shape[1]
    plan = _dispatch.active.modules[dtype.char].BatchNormPlan(*shape)
    x, gamma, beta, r, dy = arrays(shape, dtype, rng)
    y, mean, var = pyconv.batch_norm(x, gamma, beta, residual=r, activation="relu")
    dx, dgamma, dbeta, dr = pyconv.batch_norm_backward(
        dy, x, gamma, beta, mean, var, y=y, activation="relu",
        need=("x", "gamma", "beta", "residual"),
    )  # fmt: skip
    found = np.empty((4, C), dtype)
    plan.forward(x, gamma, beta, 1e-3, r, True, r, found[0], found[1], None, 0.0, 2)
    assert_array_equal(r, y)
    array = {"dy": dy, "x": x, "dr": np.empty_like(dy)}[over]
    kept = dy if over == "x" else array if over == "dr" else np.empty_like(dy)
    plan.backward(
        dy, x, gamma, beta, mean, var, 1e-3, True, r, array, found[2], found[3], kept, 2
    )
    assert_array_equal(array, dx)
    assert_array_equal(found, [mean, var, dgamma, dbeta])
    if over != "dr":
        assert_array_equal(kept, dr)


@pytest.mark.parametrize("shape", [(3, 3, 5, 17), (40, 6), (3, 3, 80, 64)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_folding_into_weights(shape, with_bias, dtype, isa, rng):
    w = rng.standard_normal(shape).astype(dtype)
    b, gamma, beta, mean, var = abs(rng.standard_normal((5, shape[-1]))).astype(dtype)
    b = b if with_bias else None
    scale = gamma.astype(float) / np.sqrt(var.astype(float) + 0.25)
    shift = 0 if b is None else b.astype(float)
    eps = np.finfo(dtype).eps
    for num_threads in cases.THREADS:
        folded, bias = functional.fold_batch_norm(
            w, b, gamma, beta, mean, var, epsilon=0.25, num_threads=num_threads
        )
        assert (folded.dtype, bias.dtype) == (dtype, dtype)
        assert np.all(abs(folded - w * scale) <= 2 * eps * abs(w * scale))
        sizes = (shift + mean) * scale + beta
        assert np.all(abs(bias - ((shift - mean) * scale + beta)) <= 4 * eps * sizes)


X, P = np.ones((2, 3, 4, 5), np.float32), np.ones(5, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pyconv.batch_norm(X[0, 0, 0], P, P), ValueError, r"`x` has shape \(5,\)"),
        (lambda: pyconv.batch_norm(X, P[1:], P), ValueError, r"`gamma` has shape \(4,\).*5 channels"),
        (lambda: pyconv.batch_norm(X, P, P.astype(float)), TypeError, "`beta` has dtype float64"),
        (lambda: pyconv.batch_norm(X, P, P, mean=P), ValueError, "`var` is None, but `mean`"),
        (lambda: pyconv.batch_norm(X, P, P, mean=P, var=P[1:]), ValueError, "`var` has shape"),
        (lambda: pyconv.batch_norm(X, P, P, epsilon=-1), ValueError, "`epsilon` is -1"),
        (lambda: pyconv.batch_norm(X, P, P, momentum=2), ValueError, "`momentum` is 2"),
        (lambda: pyconv.batch_norm(X, P, P, residual=X[1:]), ValueError, "`residual` has shape"),
        (lambda: pyconv.batch_norm(X, P, P, activation="elu"), ValueError, "`activation` is 'elu'"),
        (lambda: pyconv.batch_norm(X, P, P, moving=P), TypeError, "`moving` is"),
        (lambda: pyconv.batch_norm(X, P, P, moving=(P, P[1:])), ValueError, "`moving` holds"),
        (
            lambda: pyconv.batch_norm(X, P, P, mean=P, var=P, moving=(P, P)),
            ValueError,
            "leave out one",
        ),
        (lambda: pyconv.batch_norm_backward(X[1:], X, P, P, P, P), ValueError, "`dy` has shape"),
        (
            lambda: pyconv.batch_norm_backward(X, X, P, P, P, P, need=("w",)),
            ValueError,
            r"`need` is \('w',\)",
        ),
        (
            lambda: pyconv.batch_norm_backward(
                X, X, P, P, P, P, activation="relu", need=("residual",)
            ),
            ValueError,
            "needs the output `y`",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=f"^batch_norm.*{message}"):
        call()
