"""Activations, their gradients and dropout: bounded against the oracle, IEEE on NaN and infinity."""

import inspect

import cases
import numpy as np
import oracle
import pytest
from cases import THREADS
from numpy.testing import assert_array_equal

import pyconv

SMOOTH = ("sigmoid", "tanh", "elu")
# Exponentials with a few roundings, then a sum and a quotient: see kernels/exponential.pxi. A last
# bit each for exp, for the sum, the quotient and the product, and one for the series' remainder.
ROUNDINGS = 3


def spread(rng, dtype):
    """Numbers of both signs: of all sizes, dense where the functions bend, and the edges."""
    tiny, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    edges = [0.0, tiny, 1e-8, 0.34657, 0.34658, 1.0, 9.1, 19.1, 40.0, 87.0, 104.0, 708.0, 746.0, most]
    sizes = np.exp(rng.uniform(-20, np.log(800), 500))
    x = np.concatenate([np.array(edges, float), sizes, rng.uniform(0, 12, 500)])
    return np.concatenate([x, -x, [np.nan, np.inf, -np.inf]]).astype(dtype)


def oracle_of(name, *arrays, **options):
    """The oracle's result in float64, also of infinities, at which `math` may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return getattr(oracle, name)(*(array.astype(float) for array in arrays), **options)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations(name, dtype, isa, rng):
    x = spread(rng, dtype)
    expected = oracle_of(name, x)
    y = getattr(pyconv, name)(x)
    assert y.dtype == dtype
    assert_array_equal(np.isnan(y), np.isnan(x))
    finite = ~np.isnan(x) & np.isfinite(expected)
    # In float64 the oracle is itself off by a rounding or two.
    roundings = ROUNDINGS if dtype == np.float32 else ROUNDINGS + 2
    bound = roundings * np.finfo(dtype).eps / 2 * abs(expected[finite])
    assert np.all(abs(y[finite] - expected[finite]) <= bound + np.finfo(dtype).smallest_subnormal)
    assert_array_equal(y[~finite], expected[~finite].astype(dtype))
    if name == "tanh":
        assert_array_equal(np.signbit(y[x == 0]), np.signbit(x[x == 0]))


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0, 3.0])
def test_leaky_relu_and_elu_of_halves(slope, dtype, isa, rng):
    """Exact: quarters of small integers, and elu's gradient from a given output."""
    x, dy = (cases.integers(rng, (3, 41), dtype) for _ in range(2))
    y = pyconv.leaky_relu(x, negative_slope=slope)
    assert_array_equal(y, oracle.leaky_relu(x, slope))
    dx = pyconv.leaky_relu_backward(dy, y, negative_slope=slope)
    assert_array_equal(dx, oracle.leaky_relu_backward(dy, y, slope))
    assert_array_equal(
        pyconv.elu_backward(dy, x, alpha=slope), oracle.elu_backward(dy, x, slope)
    )
    assert_array_equal(pyconv.elu(x, alpha=0.0), oracle.relu(x))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_gradients_from_quarters(name, dtype, isa, rng):
    """Exact: y is a multiple of 1/4."""
    y, dy = cases.integers(rng, (5, 41), dtype) / 4, cases.integers(rng, (5, 41), dtype)
    dx = getattr(pyconv, f"{name}_backward")(dy, y)
    assert_array_equal(dx, getattr(oracle, f"{name}_backward")(dy, y))


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "sigmoid", "tanh"])
def test_every_length_has_the_bits_of_one_number_alone(name, dtype, isa, rng):
    """A vector's body and its tail agree, and NaN stays where it is."""
    activate, differentiate = getattr(pyconv, name), getattr(pyconv, f"{name}_backward")
    x, dy = (4 * rng.standard_normal(41).astype(dtype) for _ in range(2))
    x[[3, 17, 40]] = np.nan, np.inf, np.nan
    alone = np.concatenate([activate(x[i : i + 1]) for i in range(41)])
    slopes = np.concatenate([differentiate(dy[i : i + 1], alone[i : i + 1]) for i in range(41)])
    assert_array_equal(np.isnan(alone), np.isnan(x))
    for n in range(42):
        assert_array_equal(activate(x[:n]), alone[:n])
        assert_array_equal(differentiate(dy[:n], alone[:n]), slopes[:n])


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "sigmoid", "tanh"])
def test_threads_share_long_arrays(name, dtype, isa, rng):
    x, dy = (rng.standard_normal((5, 20_001)).astype(dtype) for _ in range(2))
    y = getattr(pyconv, name)(x, num_threads=1)
    dx = getattr(pyconv, f"{name}_backward")(dy, y, num_threads=1)
    for i in range(5):
        assert_array_equal(y[i], getattr(pyconv, name)(x[i]))
        assert_array_equal(dx[i], getattr(pyconv, f"{name}_backward")(dy[i], y[i]))
    for num_threads in THREADS[1:]:
        assert_array_equal(getattr(pyconv, name)(x, num_threads=num_threads), y)
        again = getattr(pyconv, f"{name}_backward")(dy, y, num_threads=num_threads)
        assert_array_equal(again, dx)


@pytest.mark.parametrize("shape", [(1,), (2, 3, 4, 5), (0, 3), ()])
def test_any_shape(shape, dtype, rng):
    for name in ("leaky_relu", "elu", "sigmoid", "tanh"):
        x = np.asarray(rng.standard_normal(shape)).astype(dtype)
        y = getattr(pyconv, name)(x)
        assert (y.shape, y.dtype) == (shape, dtype)
        assert getattr(pyconv, f"{name}_backward")(x, y).shape == shape


@pytest.mark.parametrize("K", [1, 2, 6, 17, 64, 65, 200])
def test_softmax_backward(K, dtype, isa, rng):
    """Exact: eighths and small integers."""
    y, dy = cases.integers(rng, (3, K), dtype) / 8, cases.integers(rng, (3, K), dtype)
    for num_threads in THREADS:
        dx = pyconv.softmax_backward(dy, y, num_threads=num_threads)
        assert dx.dtype == dtype
        assert_array_equal(dx, oracle.softmax_backward(dy, y))
    dy[1, K // 2] = np.nan
    assert_array_equal(np.isnan(pyconv.softmax_backward(dy, y)).all(1), [False, True, False])


# ------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9])
def test_dropout(rate, dtype, isa, rng):
    x = cases.integers(rng, (3, 67), dtype)
    expected = oracle.dropout(x, rate, 2**40 + 5)
    y = pyconv.dropout(x, rate, seed=2**40 + 5)
    assert y.dtype == dtype
    assert_array_equal(y, expected)
    assert_array_equal(pyconv.dropout_backward(x, rate, seed=2**40 + 5), expected)
    for n in range(70):
        assert_array_equal(pyconv.dropout(x.ravel()[:n], rate, seed=2**40 + 5), expected.ravel()[:n])


def test_dropout_drops_its_share_and_seeds_differ(isa):
    x = np.ones(100_000, np.float32)
    first, second = (pyconv.dropout(x, 0.25, seed=seed) == 0 for seed in (0, 1))
    # Six standard deviations of binomial shares.
    assert abs(first.mean() - 0.25) < 6 * (0.25 * 0.75 / x.size) ** 0.5
    assert abs((first & second).mean() - 0.0625) < 6 * (0.0625 * 0.9375 / x.size) ** 0.5
    assert abs((first[1:] & first[:-1]).mean() - 0.0625) < 6 * (0.0625 * 0.9375 / x.size) ** 0.5
    for num_threads in THREADS:
        assert_array_equal(pyconv.dropout(x, 0.25, seed=0, num_threads=num_threads) == 0, first)


def test_dropped_numbers_are_zero_whatever_they_were(dtype, isa):
    y = pyconv.dropout(np.full(100, np.nan, dtype), 0.5, seed=3)
    assert set(np.isnan(y)) == {True, False}
    assert_array_equal(y[~np.isnan(y)], 0)


def test_defaults_are_those_of_keras_functions():
    assert inspect.signature(pyconv.leaky_relu).parameters["negative_slope"].default == 0.2
    assert inspect.signature(pyconv.elu).parameters["alpha"].default == 1.0
