"""Activations, their gradients from the output, and dropout."""

from typing import Any

from .. import _dispatch, _threads
from ..geometry import integer
from ._arrays import Array, as_real, empty, finite, of_shape

KINDS = ("leaky_relu", "elu", "sigmoid", "tanh")  # as the kernels number them


def relu(x: Array, *, num_threads: int | None = None) -> Array:
    """max(x, 0) of an array of any shape; NaN stays NaN."""
    x = as_real(x, "relu", "x")
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, "relu")
    _dispatch.active.modules[x.dtype.char].relu(x.reshape(-1), y.reshape(-1), count)
    return y


def relu_backward(dy: Array, y: Array, *, num_threads: int | None = None) -> Array:
    """Gradient of `relu` from its output `y`: dy where y > 0, else 0."""
    y = as_real(y, "relu_backward", "y")
    dy = of_shape(dy, y.shape, "relu_backward", "dy", y, "like `y`")
    count = _threads.resolve(num_threads)
    dx = empty(y.shape, y.dtype, "relu_backward")
    _dispatch.active.modules[y.dtype.char].relu_backward(
        dy.reshape(-1), y.reshape(-1), dx.reshape(-1), count)
    return dx


def leaky_relu(
    x: Array, *, negative_slope: float = 0.2, num_threads: int | None = None
) -> Array:
    """x where it is above 0, else negative_slope x; of any shape.

    Parameters
    ----------
    x : ndarray, float32 or float64
    negative_slope : float, default 0.2
        0 or more, so that the gradient can tell from the output where x was below 0.
    num_threads : int, optional

    Returns
    -------
    y : ndarray, shape and dtype of `x`
    """
    slope = finite(negative_slope, "leaky_relu", "negative_slope")
    return _activate("leaky_relu", x, slope, num_threads)


def leaky_relu_backward(
    dy: Array, y: Array, *, negative_slope: float = 0.2, num_threads: int | None = None
) -> Array:
    """Gradient of `leaky_relu` from its output `y`: dy where y > 0, else negative_slope dy."""
    slope = finite(negative_slope, "leaky_relu_backward", "negative_slope")
    return _differentiate("leaky_relu", dy, y, slope, num_threads)


def elu(x: Array, *, alpha: float = 1.0, num_threads: int | None = None) -> Array:
    """x where it is above 0, else alpha (exp(x) - 1); of any shape.

    Parameters
    ----------
    x : ndarray, float32 or float64
    alpha : float, default 1.0
        0 or more.
    num_threads : int, optional

    Returns
    -------
    y : ndarray, shape and dtype of `x`
    """
    return _activate("elu", x, finite(alpha, "elu", "alpha"), num_threads)


def elu_backward(
    dy: Array, y: Array, *, alpha: float = 1.0, num_threads: int | None = None
) -> Array:
    """Gradient of `elu` from its output `y`: dy where y > 0, else dy (y + alpha)."""
    return _differentiate("elu", dy, y, finite(alpha, "elu_backward", "alpha"), num_threads)


def sigmoid(x: Array, *, num_threads: int | None = None) -> Array:
    """1 / (1 + exp(-x)) of an array of any shape, without overflow."""
    return _activate("sigmoid", x, 0.0, num_threads)


def sigmoid_backward(dy: Array, y: Array, *, num_threads: int | None = None) -> Array:
    """Gradient of `sigmoid` from its output `y`: dy y (1 - y)."""
    return _differentiate("sigmoid", dy, y, 0.0, num_threads)


def tanh(x: Array, *, num_threads: int | None = None) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)) of an array of any shape, without overflow."""
    return _activate("tanh", x, 0.0, num_threads)


def tanh_backward(dy: Array, y: Array, *, num_threads: int | None = None) -> Array:
    """Gradient of `tanh` from its output `y`: dy (1 - y y)."""
    return _differentiate("tanh", dy, y, 0.0, num_threads)


def _activate(name: str, x: Any, parameter: float, num_threads: int | None) -> Array:
    x = as_real(x, name, "x")
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, name)
    _dispatch.active.modules[x.dtype.char].activation(
        x.reshape(-1), y.reshape(-1), KINDS.index(name), parameter, count)
    return y


def _differentiate(name: str, dy: Any, y: Any, parameter: float, num_threads: int | None) -> Array:
    where = f"{name}_backward"
    y = as_real(y, where, "y")
    dy = of_shape(dy, y.shape, where, "dy", y, "like `y`")
    count = _threads.resolve(num_threads)
    dx = empty(y.shape, y.dtype, where)
    _dispatch.active.modules[y.dtype.char].activation_backward(
        dy.reshape(-1), y.reshape(-1), dx.reshape(-1), KINDS.index(name), parameter, count)
    return dx


def softmax(x: Array, *, num_threads: int | None = None) -> Array:
    """exp(x) / sum(exp(x)) along the last axis, computed without overflow.

    Parameters
    ----------
    x : ndarray of shape (..., C), float32 or float64

    Returns
    -------
    y : ndarray, shape and dtype of `x`; rows sum to 1
    """
    x = as_real(x, "softmax", "x")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"softmax: `x` has shape {x.shape}; expected (..., C) with C >= 1")
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, "softmax")
    C = x.shape[-1]
    _dispatch.active.modules[x.dtype.char].softmax(x.reshape(-1, C), y.reshape(-1, C), count)
    return y


def softmax_backward(dy: Array, y: Array, *, num_threads: int | None = None) -> Array:
    """Gradient of `softmax` from its output `y`: y (dy - sum(dy y)), sums along the last axis."""
    where = "softmax_backward"
    y = as_real(y, where, "y")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"{where}: `y` has shape {y.shape}; expected (..., C) with C >= 1")
    dy = of_shape(dy, y.shape, where, "dy", y, "like `y`")
    count = _threads.resolve(num_threads)
    dx = empty(y.shape, y.dtype, where)
    rows = -1, y.shape[-1]
    _dispatch.active.modules[y.dtype.char].softmax_backward(
        dy.reshape(rows), y.reshape(rows), dx.reshape(rows), count)
    return dx


def dropout(x: Array, rate: float, *, seed: int, num_threads: int | None = None) -> Array:
    """0 in a random share `rate` of places, x / (1 - rate) in the others.

    Parameters
    ----------
    x : ndarray, float32 or float64
        Of any shape.
    rate : float in [0, 1)
    seed : int
        From 0 to 2**64 - 1. Which places are dropped depends on it, on `rate` and on the places
        alone: not on threads, dtype or processor.
    num_threads : int, optional

    Returns
    -------
    y : ndarray, shape and dtype of `x`

    Notes
    -----
    The draw for element i of the flattened array is a word of Philox 4x32-10 with key `seed` [1]_.

    References
    ----------
    .. [1] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import dropout
    >>> dropout(np.ones(8), 0.5, seed=1)
    array([2., 2., 0., 2., 0., 0., 0., 0.])
    """
    return _drop("dropout", "x", x, rate, seed, num_threads)


def dropout_backward(
    dy: Array, rate: float, *, seed: int, num_threads: int | None = None
) -> Array:
    """Gradient of `dropout` with this rate and seed: dy / (1 - rate) where x was kept, else 0."""
    return _drop("dropout_backward", "dy", dy, rate, seed, num_threads)


def _drop(where: str, name: str, x: Any, rate: Any, seed: Any, num_threads: int | None) -> Array:
    x = as_real(x, where, name)
    rate = finite(rate, where, "rate", below=1.0)
    try:
        number = integer(seed, "seed", least=0, most=2**64 - 1)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, where)
    _dispatch.active.modules[x.dtype.char].dropout(x.reshape(-1), y.reshape(-1), number, rate, count)
    return y
