"""Optimizers: their formulas against plain loops, their state, their names."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pyconv import optimizers
from pyconv.optimizers import SGD, Adam, AdamW, RMSprop


def sgd(p, gradients, lr, momentum=0.0, nesterov=False):
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity - lr * g
        p += momentum * velocity - lr * g if nesterov else velocity
    return p


def adam(p, gradients, lr, b1=0.9, b2=0.999, epsilon=1e-7, decay=0.0):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p -= lr * decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p -= lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (math.sqrt(v) + epsilon)
    return p


def rmsprop(p, gradients, lr, rho=0.9, momentum=0.0, epsilon=1e-7):
    v = velocity = 0.0
    for g in gradients:
        v = rho * v + (1 - rho) * g * g
        velocity = momentum * velocity + lr * g / math.sqrt(v + epsilon)
        p -= velocity
    return p


CASES = [
    (SGD(0.1), lambda p, g: sgd(p, g, 0.1)),
    (SGD(0.1, momentum=0.9), lambda p, g: sgd(p, g, 0.1, 0.9)),
    (SGD(0.1, momentum=0.9, nesterov=True), lambda p, g: sgd(p, g, 0.1, 0.9, True)),
    (Adam(), lambda p, g: adam(p, g, 0.001)),
    (Adam(0.009, 0.8, 0.99, 1e-2), lambda p, g: adam(p, g, 0.009, 0.8, 0.99, 1e-2)),
    (AdamW(0.01, 0.1), lambda p, g: adam(p, g, 0.01, decay=0.1)),
    (RMSprop(), lambda p, g: rmsprop(p, g, 0.001)),
    (RMSprop(0.01, 0.8, 0.5, 1e-3), lambda p, g: rmsprop(p, g, 0.01, 0.8, 0.5, 1e-3)),
]
each_optimizer = pytest.mark.parametrize(
    ("optimizer", "formula"),
    CASES,
    ids=[f"{i}-{type(case[0]).__name__}" for i, case in enumerate(CASES)],
)


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formula(optimizer, formula, dtype, rng):
    optimizer = type(optimizer)(**optimizer.get_config())
    start = rng.standard_normal(37).astype(dtype)
    gradients = rng.standard_normal((5, 37)).astype(dtype)
    params = start.copy()
    for count, grads in enumerate(gradients, 1):
        kept = grads.copy()
        optimizer.apply(params, grads)
        assert_array_equal(grads, kept)
        assert optimizer.iterations == count
    assert params.dtype == dtype
    expected = list(map(formula, start.tolist(), gradients.T.tolist()))
    atol = 5 * 10 * np.finfo(dtype).eps * np.abs(expected).max()  # steps * roundings of each
    assert_allclose(params, expected, rtol=0, atol=atol)


@each_optimizer
def test_slots_are_all_its_memory(optimizer, formula, rng):
    """A twin with the same slots and iterations goes on with the same bits."""
    optimizer = type(optimizer)(**optimizer.get_config())
    params, gradients = rng.random(9), rng.standard_normal((4, 9))
    for grads in gradients[:2]:
        optimizer.apply(params, grads)
    twin = type(optimizer)(**optimizer.get_config())
    twin.iterations = optimizer.iterations
    twin.slots = {name: slot.copy() for name, slot in optimizer.slots.items()}
    twin_params = params.copy()
    for grads in gradients[2:]:
        optimizer.apply(params, grads)
        twin.apply(twin_params, grads)
    assert_array_equal(params, twin_params)


def test_first_step_of_adam_is_the_learning_rate(rng):
    params, grads = np.zeros(8), rng.standard_normal(8)
    Adam(0.5, epsilon=0.0).apply(params, grads)
    assert_allclose(params, -0.5 * np.sign(grads), rtol=1e-12)


def test_defaults_are_keras_s():
    assert SGD().get_config() == {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False}
    moments = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    assert Adam().get_config() == moments
    assert AdamW().get_config() == moments | {"weight_decay": 0.004}
    assert RMSprop().get_config() == {
        "learning_rate": 0.001,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-7,
    }


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", SGD), ("adam", Adam), ("AdamW", AdamW), ("RMSprop", RMSprop)]
)
def test_names(name, kind):
    assert type(optimizers.get(name)) is kind


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Adam(lerning_rate=1), TypeError, "Adam has.*; did you mean 'learning_rate'"),
        (lambda: SGD(0.1, nestrov=True), TypeError, "did you mean 'nesterov'"),
        (lambda: Adam(-1), ValueError, "`learning_rate` is -1"),
        (lambda: Adam("fast"), TypeError, "`learning_rate` is 'fast'"),
        (lambda: Adam(beta_2=1.0), ValueError, r"`beta_2` is 1.0; expected a number in \[0, 1\)"),
        (lambda: SGD(momentum=1.5), ValueError, "`momentum` is 1.5"),
        (lambda: optimizers.get("adm"), ValueError, "`optimizer` is 'adm'.*did you mean 'adam'"),
        (lambda: optimizers.get(Adam), ValueError, "expected an Optimizer or a name"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_optimizer_for_two_models():
    adam = Adam()
    adam.apply(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="updated 3 parameters of float64, and now gets 4"):
        adam.apply(np.zeros(4), np.ones(4))
    assert adam.iterations == 1


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam()], ids=["SGD", "Adam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_moment_without_gradients_becomes_zero_and_never_subnormal(optimizer, dtype):
    optimizer = type(optimizer)(**optimizer.get_config())
    params, grads = np.ones(40, dtype), np.full(40, 0.5, dtype)
    for _ in range(8000):
        optimizer.apply(params, grads)
        grads[:] = 0
        moment = optimizer.slots["velocity" if "velocity" in optimizer.slots else "m"]
        assert not ((moment != 0) & (abs(moment) < np.finfo(dtype).tiny)).any()
    assert (moment == 0).all()
