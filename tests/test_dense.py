"""Dense layers, ReLU, softmax cross-entropy and the optimizers' steps, against the oracle."""

import cases
import numpy as np
import oracle
import pytest
from cases import CHANNELS, THREADS
from numpy.testing import assert_array_equal

import pyconv
from pyconv import functional


def problem(rng, N, C_in, C_out, dtype):
    shapes = (N, C_in), (C_in, C_out), (C_out,), (N, C_out)
    return tuple(cases.integers(rng, shape, dtype) for shape in shapes)


@pytest.mark.parametrize("C_in", [1, 2, 7, 64])
@pytest.mark.parametrize("C_out", [1, 3, 6, 10, 33])
@pytest.mark.parametrize("N", [1, 2, 7, 33])
def test_dense(N, C_in, C_out, dtype, isa, rng):
    x, w, b, dy = problem(rng, N, C_in, C_out, dtype)
    linear, biased = oracle.dense(x, w), oracle.dense(x, w, b)
    expected = oracle.dense_backward(dy, x, w)
    for num_threads in THREADS:
        with pyconv.threads(num_threads):
            assert_array_equal(pyconv.dense(x, w), linear)
            assert_array_equal(pyconv.dense(x, w, b), biased)
            assert_array_equal(pyconv.dense(x, w, b, activation="relu"), oracle.relu(biased))
            gradients = pyconv.dense_backward(dy, x, w)
            for ours, theirs in zip(gradients, expected, strict=True):
                assert ours.dtype == dtype
                assert_array_equal(ours, theirs)


@pytest.mark.parametrize("C_in", CHANNELS)
def test_dense_sizes_on_edges(C_in, dtype, isa, rng):
    for N, C_out in [(5, C_out) for C_out in CHANNELS] + [(N, 40) for N in (12, 13, 23, 128, 129)]:
        x, w, b, dy = problem(rng, N, C_in, C_out, dtype)
        assert_array_equal(pyconv.dense(x, w, b), x @ w + b)
        dx, dw, db = pyconv.dense_backward(dy, x, w)
        assert_array_equal(dx, dy @ w.T)
        assert_array_equal(dw, x.T @ dy)
        assert_array_equal(db, dy.sum(0))


@pytest.mark.parametrize("shape", [
    (64, 64, 6), (64, 256, 120), (3, 1000, 17), (130, 400, 84), (1, 400, 120), (2, 1100, 130)])
def test_dense_layers_of_real_networks(shape, dtype, isa, rng):
    x, w, b, dy = problem(rng, *shape, dtype)
    for num_threads in THREADS:
        with pyconv.threads(num_threads):
            assert_array_equal(pyconv.dense(x, w, b), x @ w + b)
            dx, dw, db = pyconv.dense_backward(dy, x, w)
            assert_array_equal(dx, dy @ w.T)
            assert_array_equal(dw, x.T @ dy)
            assert_array_equal(db, dy.sum(0))


def test_a_row_has_the_same_bits_in_any_batch(dtype, isa, rng):
    x = rng.standard_normal((140, 70)).astype(dtype)
    w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((70, 131), 131))
    y = pyconv.dense(x, w, b)
    for N in 1, 2, 3, 5, 13, 35, 128:
        assert_array_equal(pyconv.dense(x[:N], w, b), y[:N])


@pytest.mark.parametrize("C", [9, 16, 17, 33, 40])
def test_blocks_of_a_dense_layer_keep_nan_and_infinity_apart(C, dtype, isa, rng):
    for spoil in range(4):
        arrays = problem(rng, 14, 10, C, dtype)
        arrays[spoil].ravel()[:3] = np.nan, np.inf, -np.inf
        x, w, b, dy = arrays
        assert_array_equal(pyconv.dense(x, w, b), oracle.dense(x, w, b))
        gradients, expected = pyconv.dense_backward(dy, x, w), oracle.dense_backward(dy, x, w)
        for ours, theirs in zip(gradients, expected, strict=True):
            assert_array_equal(ours, theirs)


@pytest.mark.parametrize("C", range(1, 41))
def test_dense_puts_nan_and_infinity_where_the_direct_sum_does(C, dtype, isa, rng):
    for C_in, C_out in ((3, C), (C, 3)):
        for spoil in range(4):
            arrays = problem(rng, 4, C_in, C_out, dtype)
            arrays[spoil].ravel()[:3] = (np.nan, np.inf, -np.inf)[: arrays[spoil].size]
            x, w, b, dy = arrays
            assert_array_equal(pyconv.dense(x, w, b), oracle.dense(x, w, b))
            gradients, expected = pyconv.dense_backward(dy, x, w), oracle.dense_backward(dy, x, w)
            for ours, theirs in zip(gradients, expected, strict=True):
                assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4, 5), (41,), (0, 3)])
def test_relu(shape, dtype, isa, rng):
    x = cases.integers(rng, shape, dtype)
    y = pyconv.relu(x)
    assert y.dtype == dtype
    assert_array_equal(y, oracle.relu(x))
    dy = cases.integers(rng, shape, dtype)
    assert_array_equal(functional.relu_backward(dy, y), np.where(x > 0, dy, 0))


def test_relu_keeps_nan_in_body_and_tail(dtype, isa):
    for n in range(1, 41):
        for value, expected in ((np.nan, np.nan), (np.inf, np.inf), (-np.inf, 0)):
            y = pyconv.relu(np.full(n, value, dtype))
            assert_array_equal(y, np.full(n, expected))


# ------------------------------------------------------------------------------ cross-entropy


@pytest.mark.parametrize(("N", "K"), [(1, 1), (1, 6), (5, 6), (64, 10), (3, 17), (4, 1000)])
@pytest.mark.parametrize("scale", [1, 30])
def test_softmax_cross_entropy(N, K, scale, dtype, isa, rng):
    """Errors: of z - max z, which exp makes relative; of exp itself; of a sum of K terms."""
    logits = (scale * rng.standard_normal((N, K))).astype(dtype)
    labels = rng.integers(K, size=N)
    spread = logits.max(1, keepdims=True) - logits
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    relative = (spread + K + 4) * eps
    expected = oracle.softmax(logits.astype(float))
    assert np.all(abs(pyconv.softmax(logits) - expected) <= relative * expected + tiny)

    expected_loss, expected_gradient = oracle.softmax_cross_entropy(logits.astype(float), labels)
    for answers in (labels, labels.astype(np.int32), np.eye(K, dtype=dtype)[labels]):
        loss, dlogits = pyconv.softmax_cross_entropy(logits, answers)
        assert isinstance(loss, float)
        assert abs(loss - expected_loss) <= relative.max()
        assert dlogits.dtype == dtype
        hits = np.arange(K) == labels[:, None]
        bound = (relative * expected + hits * eps) / N + tiny
        assert np.all(abs(dlogits - expected_gradient) <= bound)


def test_softmax_of_huge_logits_neither_overflows_nor_divides_by_zero(dtype, isa):
    logits = np.array([[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30]], dtype)
    third = dtype.type(1) / dtype.type(3)
    assert_array_equal(pyconv.softmax(logits), np.array([[1, 0, 0], [third] * 3], dtype))
    loss, dlogits = pyconv.softmax_cross_entropy(logits, np.array([0, 0]))
    assert loss == pytest.approx(np.log(3) / 2, rel=1e-6)
    assert np.all(np.isfinite(dlogits))


@pytest.mark.parametrize("K", range(1, 20))
def test_softmax_keeps_nan_in_its_own_row(K, dtype, isa, rng):
    logits = rng.standard_normal((3, K)).astype(dtype)
    clean = pyconv.softmax(logits)
    logits[1, K // 2] = np.nan
    spoiled = pyconv.softmax(logits)
    assert np.isnan(spoiled[1]).all()
    assert_array_equal(spoiled[::2], clean[::2])
    loss, dlogits = pyconv.softmax_cross_entropy(logits, np.zeros(3, int))
    assert np.isnan(loss)
    assert_array_equal(np.isnan(dlogits).any(1), [False, True, False])


# ------------------------------------------------------------------------------------- updates


@pytest.mark.parametrize("size", [1, 3, 16, 17, 1000])
@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize(("epsilon", "decay"), [(1e-8, 0.0), (1e-7, 0.5)])
def test_adam_step(size, step, epsilon, decay, dtype, isa, rng):
    """Each of the few roundings is relative to the sizes of what is added.

    The betas are numbers of the dtype, as in TensorFlow: 1 - 0.999 is another one in float32.
    """
    param, grad, m = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    v = rng.random(size).astype(dtype)
    betas = {"beta_1": float(dtype.type(0.9)), "beta_2": float(dtype.type(0.999))}
    options = {"step": step, "learning_rate": 0.009, "epsilon": epsilon, "weight_decay": decay} | betas
    expected = oracle.adam_step(*(a.astype(float) for a in (param, grad, m, v)), **options)
    sizes = 0.9 * abs(m) + 0.1 * abs(grad), 0.999 * v + 0.001 * grad**2
    rate = 0.009 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    sizes = abs(param) + 3 * rate * sizes[0] / np.sqrt(sizes[1]), *sizes
    before = grad.copy()
    assert functional.adam_step(param, grad, m, v, **options) is None
    assert_array_equal(grad, before)
    for got, wanted, size_ in zip((param, m, v), expected, sizes, strict=True):
        assert np.all(abs(got - wanted) <= 4 * np.finfo(dtype).eps * size_)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 1000])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_step(size, momentum, nesterov, dtype, isa, rng):
    """Exact: halves and quarters of small integers."""
    param, grad, velocity = (cases.integers(rng, size, dtype) for _ in range(3))
    options = {"learning_rate": 0.25, "momentum": momentum, "nesterov": nesterov}
    expected = oracle.sgd_step(param, grad, velocity, **options)
    if momentum == 0:
        alone = param.copy()
        functional.sgd_step(alone, grad, None, learning_rate=0.25)
        assert_array_equal(alone, oracle.sgd_step(param, grad, velocity, learning_rate=0.25)[0])
    functional.sgd_step(param, grad, velocity, **options)
    assert_array_equal(param, expected[0])
    assert_array_equal(velocity, expected[1])


@pytest.mark.parametrize("size", [1, 3, 16, 17, 1000])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_rmsprop_step(size, momentum, dtype, isa, rng):
    """As for Adam. `rho` is a number of the dtype, too."""
    param, grad, velocity = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    v = rng.random(size).astype(dtype)
    rho = float(dtype.type(0.9))
    options = {"learning_rate": 0.01, "rho": rho, "momentum": momentum, "epsilon": 1e-3}
    if not momentum:
        velocity[:] = 0
    expected = oracle.rmsprop_step(*(a.astype(float) for a in (param, grad, v, velocity)), **options)
    squares = 0.9 * v + 0.1 * grad**2
    moves = momentum * abs(velocity) + 3 * 0.01 * abs(grad) / np.sqrt(squares + 1e-3)
    functional.rmsprop_step(param, grad, v, velocity if momentum else None, **options)
    got = (param, v, velocity) if momentum else (param, v)
    for a, wanted, size_ in zip(got, expected, (abs(expected[0]) + moves, squares, moves), strict=False):
        assert np.all(abs(a - wanted) <= 4 * np.finfo(dtype).eps * size_)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_updates_are_the_same_on_any_threads(num_threads, dtype, isa, rng):
    """More numbers than one work item has."""
    param, grad, m, v = (abs(rng.standard_normal(70_001)).astype(dtype) for _ in range(4))
    for step in (
        lambda p, **k: functional.adam_step(p, grad, m.copy(), v.copy(), step=2, learning_rate=0.1, **k),
        lambda p, **k: functional.sgd_step(p, grad, m.copy(), learning_rate=0.1, momentum=0.9, **k),
        lambda p, **k: functional.rmsprop_step(
            p, grad, v.copy(), m.copy(), learning_rate=0.1, momentum=0.9, **k),
    ):
        one, some = param.copy(), param.copy()
        step(one, num_threads=1)
        step(some, num_threads=num_threads)
        assert_array_equal(one, some)
        assert not np.array_equal(one, param)


def test_updates_pass_nan_on(dtype, isa):
    for n in range(1, 41):
        grad = np.zeros(n, dtype)
        grad[n // 2] = np.nan
        expected = np.isnan(grad)
        param, m, v = np.ones(n, dtype), np.zeros(n, dtype), np.zeros(n, dtype)
        functional.adam_step(param, grad, m, v, step=1, learning_rate=0.1)
        assert_array_equal(np.isnan(param), expected)
        param = np.ones(n, dtype)
        functional.sgd_step(param, grad, None, learning_rate=0.1)
        assert_array_equal(np.isnan(param), expected)
        param = np.ones(n, dtype)
        functional.rmsprop_step(param, grad, np.zeros(n, dtype), learning_rate=0.1)
        assert_array_equal(np.isnan(param), expected)
