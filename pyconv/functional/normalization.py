"""Batch normalization over the last axis, with what usually follows it: a sum and a ReLU."""

from typing import Any

import numpy as np

from .. import _dispatch, _threads
from .._arguments import real
from ._arrays import Array, activation_is_relu, as_real, empty, of_shape
from ._plans import Problem, cached_batch_norm

_GRADIENTS = ("x", "gamma", "beta", "residual")


def batch_norm(
    x: Array, gamma: Array, beta: Array, *, mean: Array | None = None, var: Array | None = None,
    epsilon: float = 1e-3, residual: Array | None = None, activation: str | None = None,
    moving: tuple[Array, Array] | None = None, momentum: float = 0.99,
    num_threads: int | None = None,
) -> Any:
    """Normalize each channel, the last axis, to mean `beta` and standard deviation `gamma`.

    y = (x - mean) gamma / sqrt(var + epsilon) + beta, then + `residual`, then ReLU, if asked.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C) or (N, C), float32 or float64
        Any number of axes from 2 on; all but the last are averaged over.
    gamma, beta : ndarray of shape (C,), dtype of `x`
    mean, var : ndarray of shape (C,), optional
        Given statistics, for inference. Without them those of `x` are taken, and returned.
    epsilon : float, default 1e-3
        Added to the variance.
    residual : ndarray of `x`'s shape, optional
        Added in the same pass.
    activation : {None, "relu"}
        Applied last, in the same pass.
    moving : (mean, var), optional
        Arrays (C,) to update in place: moving = momentum moving + (1 - momentum) new. Only without
        `mean` and `var`.
    momentum : float in [0, 1], default 0.99
    num_threads : int, optional
        Never changes the result.

    Returns
    -------
    y : ndarray, shape and dtype of `x`
    mean, var : ndarray of shape (C,)
        Only without given ones: those of `x`, the variance divided by the number of pixels. With
        these given, the same call returns the same y, bit for bit. An empty batch has mean 0 and
        variance 0, and leaves `moving` as it is.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together.

    Notes
    -----
    Memory takes the time: x is read twice and y written once, with given statistics each once.

    Examples
    --------
    >>> import numpy as np
    >>> import pyconv
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> y, mean, var = pyconv.batch_norm(x, np.ones(2), np.zeros(2), epsilon=0.0, activation="relu")
    >>> mean, var
    (array([2., 5.]), array([1., 0.]))
    """
    where = "batch_norm"
    x, gamma, beta, problem = _arguments(x, gamma, beta, where)
    given = _statistics(mean, var, x, where) if mean is not None or var is not None else None
    epsilon = _number(epsilon, "epsilon", where)
    relu = activation_is_relu(activation, where)
    if residual is not None:
        residual = of_shape(residual, x.shape, where, "residual", x, "that of `x`")
    momentum = _number(momentum, "momentum", where)
    if momentum > 1:
        raise ValueError(f"{where}: `momentum` is {momentum}; expected a number in [0, 1]")
    if moving is not None:
        _check_moving(moving, x, where)
        if given:
            raise ValueError(f"{where}: `moving` is updated by statistics of `x`, but `mean` and "
                             "`var` are given; leave out one of them")
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, where)
    rows, added = _rows(x), None if residual is None else _rows(residual)
    if x.size == 0:
        return y if given else (y, np.zeros_like(gamma), np.zeros_like(gamma))
    plan, free = problem.borrow(_dispatch.active.modules[x.dtype.char])
    if given:
        plan.inference(rows, gamma, beta, *given, epsilon, added, relu, _rows(y), count)
        free.append(plan)
        return y
    mean, var = np.empty_like(gamma), np.empty_like(gamma)
    plan.forward(rows, gamma, beta, epsilon, added, relu, _rows(y), mean, var, moving, momentum, count)
    free.append(plan)
    return y, mean, var


def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, beta: Array, mean: Array, var: Array, *,
    epsilon: float = 1e-3, activation: str | None = None, y: Array | None = None,
    need: tuple[str, ...] = ("x", "gamma", "beta"), num_threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """Gradients of `batch_norm` with the statistics of its `x`.

    With g = dy, where there was a ReLU 0 at y <= 0, and n = (x - mean) / sqrt(var + epsilon):
    dbeta = sum of g, dgamma = sum of g n over the P pixels,
    dx = gamma / sqrt(var + epsilon) (g - dbeta / P - n dgamma / P), dresidual = g.

    Parameters
    ----------
    dy : ndarray, shape of `x`
        Gradient by the output.
    x, gamma, beta, epsilon, activation, num_threads
        As they were given to `batch_norm`.
    mean, var : ndarray of shape (C,)
        As it returned them.
    y : ndarray, shape of `x`, optional
        Its output. Needed where a residual was added before a ReLU; otherwise the ReLU's mask is
        found from `x`, which takes less time.
    need : tuple of {"x", "gamma", "beta", "residual"}, default all but "residual"
        A gradient that is not named is returned as None.

    Returns
    -------
    dx, dgamma, dbeta, dresidual : ndarray or None
        Without a ReLU, dresidual is `dy` itself.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together.

    Notes
    -----
    dy, x and, if given, y are read twice, dx is written once. The gradients of an empty batch are 0.
    """
    where = "batch_norm_backward"
    x, gamma, beta, problem = _arguments(x, gamma, beta, where)
    mean, var = _statistics(mean, var, x, where)
    dy = of_shape(dy, x.shape, where, "dy", x, "that of `x`")
    epsilon = _number(epsilon, "epsilon", where)
    relu = activation_is_relu(activation, where)
    if not isinstance(need, (tuple, list, set, frozenset)) or not set(need) <= set(_GRADIENTS):
        raise ValueError(f"{where}: `need` is {need!r}; expected some of {_GRADIENTS} in a tuple")
    if relu and y is not None:
        y = of_shape(y, x.shape, where, "y", x, "that of `x`")
    elif relu and "residual" in need:
        raise ValueError(f"{where}: `need` is {need!r}, and the gradient of a residual behind a ReLU "
                         "needs the output `y`")
    count = _threads.resolve(num_threads)
    dx = empty(x.shape, x.dtype, where) if "x" in need else None
    dr = empty(x.shape, x.dtype, where) if "residual" in need and relu else None
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    if x.size:
        plan, free = problem.borrow(_dispatch.active.modules[x.dtype.char])
        plan.backward(
            _rows(dy), _rows(x), gamma, beta, mean, var, epsilon, relu,
            _rows(y) if relu and y is not None else None, None if dx is None else _rows(dx), dgamma,
            dbeta, None if dr is None else _rows(dr), count)
        free.append(plan)
    if "residual" in need and not relu:
        dr = dy
    return dx, dgamma if "gamma" in need else None, dbeta if "beta" in need else None, dr


def fold_batch_norm(
    w: Array, b: Array | None, gamma: Array, beta: Array, mean: Array, var: Array, *,
    epsilon: float = 1e-3, num_threads: int | None = None,
) -> tuple[Array, Array]:
    """Weights whose outputs are those of `w` and `b` behind `batch_norm` with given statistics.

    w scale and (b - mean) scale + beta, with scale = gamma / sqrt(var + epsilon).

    Parameters
    ----------
    w : ndarray of shape (..., C), float32 or float64
        Of `conv2d` or `dense`.
    b : ndarray of shape (C,), or None
    gamma, beta, mean, var, epsilon, num_threads
        As in `batch_norm`.

    Returns
    -------
    w, b : ndarray of shape (..., C) and (C,)
    """
    where = "fold_batch_norm"
    w = as_real(w, where, "w")
    C = w.shape[-1]
    because = f"one number for each of `w`'s {C} outputs (`w` of shape {w.shape})"
    named = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    vectors = [of_shape(value, (C,), where, name, w, because) for name, value in named.items()]
    if b is not None:
        b = of_shape(b, (C,), where, "b", w, because)
    folded, bias = np.empty_like(w), np.empty(C, w.dtype)
    _dispatch.active.modules[w.dtype.char].fold_batch_norm(
        _rows(w), b, *vectors, _number(epsilon, "epsilon", where), _rows(folded), bias,
        _threads.resolve(num_threads))
    return folded, bias


def _arguments(x: Any, gamma: Any, beta: Any, where: str) -> tuple[Array, Array, Array, Problem]:
    x = as_real(x, where, "x")
    if x.ndim < 2 or x.shape[-1] == 0:
        raise ValueError(f"{where}: `x` has shape {x.shape}; expected (N, H, W, C) or (N, C), C 1 or "
                         "more")
    C = x.shape[-1]
    because = f"one number for each of the {C} channels of `x` (shape {x.shape})"
    gamma = of_shape(gamma, (C,), where, "gamma", x, because)
    beta = of_shape(beta, (C,), where, "beta", x, because)
    return x, gamma, beta, cached_batch_norm(x.size // C, C)


def _statistics(mean: Any, var: Any, x: Array, where: str) -> tuple[Array, Array]:
    if mean is None or var is None:
        missing, other = ("mean", "var") if mean is None else ("var", "mean")
        raise ValueError(f"{where}: `{missing}` is None, but `{other}` is given; give both or none")
    shape = x.shape[-1:]
    because = f"one number for each of the {shape[0]} channels of `x` (shape {x.shape})"
    return (of_shape(mean, shape, where, "mean", x, because),
            of_shape(var, shape, where, "var", x, because))


def _check_moving(moving: Any, x: Array, where: str) -> None:
    if not isinstance(moving, (tuple, list)) or len(moving) != 2:
        raise TypeError(f"{where}: `moving` is {moving!r}; expected a pair of arrays (mean, var)")
    for array in moving:
        if not (isinstance(array, np.ndarray) and array.shape == x.shape[-1:]
                and array.dtype == x.dtype and array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(
                f"{where}: `moving` holds {type(array).__name__} of shape "
                f"{getattr(array, 'shape', None)} and dtype {getattr(array, 'dtype', None)}; expected "
                f"writeable contiguous arrays of shape {x.shape[-1:]} and dtype {x.dtype}")


def _number(value: Any, name: str, where: str) -> float:
    try:
        return real(value, name)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])
