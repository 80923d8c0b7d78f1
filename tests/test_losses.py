"""Losses and their gradients, with smoothing and weights, against the oracle."""

import cases
import numpy as np
import oracle
import pytest
from cases import THREADS
from numpy.testing import assert_allclose, assert_array_equal

import pyconv

CLASSES = [1, 2, 6, 17, 64, 65]


def bound_of_softmax(logits, dtype):
    """Relative error of a probability: of z - max z, of exp, and of a sum of C terms."""
    spread = logits.max(1, keepdims=True) - logits
    return (spread + logits.shape[1] + 4) * np.finfo(dtype).eps


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", ["", "class", "sample", "both"])
@pytest.mark.parametrize("C", CLASSES)
def test_softmax_cross_entropy(C, weighted, smoothing, dtype, isa, rng):
    N = 7
    logits = (3 * rng.standard_normal((N, C))).astype(dtype)
    numbers = rng.integers(C, size=N)
    rows = rng.dirichlet(np.ones(C), N).astype(dtype)
    options = {"label_smoothing": smoothing}
    if weighted in ("class", "both"):
        options["class_weight"] = rng.uniform(0.5, 2, C)
    if weighted in ("sample", "both"):
        options["sample_weight"] = rng.uniform(0, 3, N)
    eps = np.finfo(dtype).eps
    for labels in (numbers, np.eye(C, dtype=dtype)[numbers], rows):
        expected_loss, expected = oracle.softmax_cross_entropy(
            logits.astype(float), labels, **options
        )
        # The largest weight is below 6, and a row's labels sum to 1.
        relative = 6 * bound_of_softmax(logits, dtype)
        for num_threads in THREADS:
            loss, dlogits = pyconv.softmax_cross_entropy(
                logits, labels, **options, num_threads=num_threads
            )
            assert isinstance(loss, float)
            assert dlogits.dtype == dtype
            assert abs(loss - expected_loss) <= relative.max() * (1 + abs(expected_loss))
            assert np.all(abs(dlogits - expected) <= relative / N + eps * abs(expected))


def test_one_hot_rows_and_class_numbers_agree(dtype, isa, rng):
    logits, labels = rng.standard_normal((5, 6)).astype(dtype), rng.integers(6, size=5)
    options = {"label_smoothing": 0.2, "class_weight": {0: 2.0, 5: 0.5}}
    loss, dlogits = pyconv.softmax_cross_entropy(logits, labels, **options)
    again, same = pyconv.softmax_cross_entropy(logits, np.eye(6)[labels], **options)
    assert loss == again
    assert_array_equal(dlogits, same)


def test_weights_of_one_change_no_bit(dtype, isa, rng):
    logits, labels = rng.standard_normal((5, 6)).astype(dtype), rng.integers(6, size=5)
    loss, dlogits = pyconv.softmax_cross_entropy(logits, labels)
    for options in ({"class_weight": {}}, {"class_weight": np.ones(6)}, {"sample_weight": [1] * 5}):
        again, same = pyconv.softmax_cross_entropy(logits, labels, **options)
        assert loss == again
        assert_array_equal(dlogits, same)


def test_a_weight_of_two_is_the_example_twice(dtype, isa, rng):
    logits = rng.standard_normal((3, 4)).astype(dtype)
    for loss_of, labels in (
        (pyconv.softmax_cross_entropy, np.array([1, 0, 3])),
        (pyconv.binary_cross_entropy, rng.integers(2, size=(3, 4))),
        (pyconv.mean_squared_error, rng.standard_normal((3, 4))),
    ):
        loss, dy = loss_of(logits, labels, sample_weight=[2, 1, 1])
        twice = [0, 0, 1, 2]
        again, dy_twice = loss_of(logits[twice], labels[twice])
        assert loss * 3 == pytest.approx(again * 4, rel=16 * float(np.finfo(dtype).eps))
        merged = np.stack([dy_twice[0] + dy_twice[1], dy_twice[2], dy_twice[3]])
        # Two quotients by different numbers of examples, each rounded.
        assert_allclose(dy * 3, merged * 4, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(1, 1), (5,), (4, 3), (2, 3, 4, 2), (3, 41), (2, 9000)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(shape, weighted, smoothing, dtype, isa, rng):
    logits = (5 * rng.standard_normal(shape)).astype(dtype)
    weights = {"sample_weight": rng.uniform(0, 3, shape[0])} if weighted else {}
    options = {"label_smoothing": smoothing} | weights
    eps = np.finfo(dtype).eps
    for labels in (rng.integers(2, size=shape), rng.random(shape).astype(dtype)):
        expected_loss, expected = oracle.binary_cross_entropy(
            logits.astype(float), labels, **options
        )
        for num_threads in THREADS:
            loss, dlogits = pyconv.binary_cross_entropy(
                logits, labels, **options, num_threads=num_threads
            )
            assert (dlogits.dtype, dlogits.shape) == (dtype, shape)
            # A few roundings of |z|, of the label and of the weight, all below 3 (1 + |z|).
            size = 3 * (1 + abs(logits))
            assert abs(loss - expected_loss) <= 8 * eps * size.mean()
            assert np.all(abs(dlogits - expected) <= 8 * eps * 3 / logits.size)


def test_binary_cross_entropy_of_sure_answers_is_relatively_exact(dtype, isa):
    """log(1 + exp(-z)) where 1 + exp(-z) is 1, and no overflow at the other end."""
    z = np.array([-80.0, -30.0, -1.0, 0.0, 1.0, 30.0, 80.0])
    for value in z:
        loss, _ = pyconv.binary_cross_entropy(np.array([value], dtype), [1.0])
        expected = np.log1p(np.exp(-value)) if value > -50 else -value
        assert loss == pytest.approx(expected, rel=4 * float(np.finfo(dtype).eps))
    loss, dlogits = pyconv.binary_cross_entropy(np.array([1e30, -1e30], dtype), [0, 1])
    assert loss == pytest.approx(1e30)
    assert_array_equal(dlogits, [0.5, -0.5])


@pytest.mark.parametrize("shape", [(1, 1), (5,), (4, 3), (2, 3, 4, 2), (3, 41), (2, 9000)])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_squared_error(shape, weighted, dtype, isa, rng):
    """Exact but for the last division: squares of small integers."""
    y, targets = cases.integers(rng, shape, dtype), cases.integers(rng, shape, np.int8)
    options = {"sample_weight": rng.integers(0, 3, shape[0])} if weighted else {}
    expected_loss, expected = oracle.mean_squared_error(y.astype(float), targets, **options)
    for num_threads in THREADS:
        loss, dy = pyconv.mean_squared_error(y, targets, **options, num_threads=num_threads)
        assert (dy.dtype, dy.shape) == (dtype, shape)
        # The oracle divides every term: one rounding each.
        assert loss == pytest.approx(expected_loss, rel=y.size * np.finfo(float).eps)
        assert_allclose(dy, expected, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("K", range(1, 41))
def test_nan_stays_in_its_place(K, dtype, isa, rng):
    x, labels = rng.standard_normal((3, K)).astype(dtype), np.ones((3, K))
    x[1, K // 2] = np.nan
    for loss_of in (pyconv.binary_cross_entropy, pyconv.mean_squared_error):
        loss, dx = loss_of(x, labels)
        assert np.isnan(loss)
        assert_array_equal(np.isnan(dx), np.isnan(x))


def test_nothing_costs_nothing(dtype, isa):
    for loss_of, labels in (
        (pyconv.softmax_cross_entropy, np.zeros(0, int)),
        (pyconv.binary_cross_entropy, np.zeros((0, 4))),
        (pyconv.mean_squared_error, np.zeros((0, 4))),
    ):
        loss, dx = loss_of(np.zeros((0, 4), dtype), labels, sample_weight=[])
        assert (loss, dx.shape) == (0.0, (0, 4))


def test_gradients_are_those_of_the_losses(isa, rng):
    logits = rng.standard_normal((3, 4))
    for loss_of, labels, options in (
        (
            pyconv.softmax_cross_entropy,
            np.array([1, 0, 3]),
            {"label_smoothing": 0.1, "class_weight": [1, 2, 3, 4], "sample_weight": [1, 0.5, 2]},
        ),
        (
            pyconv.binary_cross_entropy,
            rng.random((3, 4)),
            {"label_smoothing": 0.1, "sample_weight": [1, 0.5, 2]},
        ),
        (pyconv.mean_squared_error, rng.random((3, 4)), {"sample_weight": [1, 0.5, 2]}),
    ):
        _, dx = loss_of(logits, labels, **options)
        for index in np.ndindex(logits.shape):
            middle = logits[index]
            logits[index] = middle + 1e-6
            above = loss_of(logits, labels, **options)[0]
            logits[index] = middle - 1e-6
            slope = (above - loss_of(logits, labels, **options)[0]) / 2e-6
            logits[index] = middle
            assert dx[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)
