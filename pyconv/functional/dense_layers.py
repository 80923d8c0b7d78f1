"""Dense layers, ReLU, softmax and the loss."""

from typing import Any

import numpy as np

from .. import _dispatch, _threads
from ._arrays import Array, activation_is_relu, as_real, empty, of_shape, wanted_ones
from ._plans import Problem, cached_conv, problem_of
from .convolution import gradients_of


def dense(
    x: Array, w: Array, b: Array | None = None, *, activation: str | None = None,
    num_threads: int | None = None,
) -> Array:
    """y = x w + b for rows of features, then ReLU if asked.

    Parameters
    ----------
    x : ndarray of shape (N, C_in), float32 or float64
    w : ndarray of shape (C_in, C_out), dtype of `x`
    b : ndarray of shape (C_out,), optional
    activation : {None, "relu"}
    num_threads : int, optional

    Returns
    -------
    y : ndarray of shape (N, C_out)

    Notes
    -----
    A 1x1 convolution of N pixels, on the same kernels.
    """
    x, w, problem = _dense_problem(x, w, "dense")
    if b is not None:
        b = of_shape(b, w.shape[1:], "dense", "b", x, f"one number for each of `w`'s {w.shape[1]} "
                      f"outputs (`w` of shape {w.shape})")
    relu = activation_is_relu(activation, "dense")
    count = _threads.resolve(num_threads)
    y = empty((x.shape[0], w.shape[1]), x.dtype, "dense")
    module = _dispatch.active.modules[x.dtype.char]
    plan, free = problem.borrow(module)
    plan.forward(x[:, None, None], w[None, None], b, relu, y[:, None, None], count)
    free.append(plan)
    return y


def dense_backward(
    dy: Array, x: Array, w: Array, *, need: tuple[str, ...] = ("x", "w", "b"),
    num_threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `dense`: dx = dy w^T, dw = x^T dy, db = sum of dy over the rows.

    Parameters
    ----------
    dy : ndarray of shape (N, C_out)
        Gradient by the output before any activation.
    x, w, num_threads
        As they were given to `dense`.
    need : tuple of {"x", "w", "b"}, default all
        A gradient that is not named is returned as None and costs nothing.

    Returns
    -------
    dx, dw, db : ndarray or None
    """
    where = "dense_backward"
    x, w, problem = _dense_problem(x, w, where)
    dy = of_shape(dy, (x.shape[0], w.shape[1]), where, "dy", x, f"the output's for `x` of shape "
                   f"{x.shape} and `w` of shape {w.shape}")
    wanted = wanted_ones(need, where)
    dx, dw, db = gradients_of(where, problem, dy[:, None, None], x[:, None, None], w[None, None],
                            wanted, num_threads)
    return None if dx is None else dx[:, 0, 0], None if dw is None else dw[0, 0], db


def _dense_problem(x: Any, w: Any, where: str) -> tuple[Array, Array, Problem]:
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or 0 in w.shape:
        raise ValueError(
            f"{where}: `x` has shape {x.shape} and `w` {w.shape}; expected (N, C_in) and "
            "(C_in, C_out), C_in and C_out 1 or more. For images use x.reshape(len(x), -1)"
        )
    N, C_in = x.shape
    shapes = (N, 1, 1, C_in), (1, 1, *w.shape)
    problem = problem_of(cached_conv, where, shapes, 1, "valid", 1, 1)
    return x, w, problem


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


def add(
    x: Array, r: Array, *, activation: str | None = None, num_threads: int | None = None
) -> Array:
    """y = x + r, then ReLU if asked.

    Parameters
    ----------
    x, r : ndarray of one shape, float32 or float64
    activation : {None, "relu"}
    num_threads : int, optional

    Returns
    -------
    y : ndarray, shape and dtype of `x`

    Examples
    --------
    >>> import numpy as np
    >>> add(np.array([1.0, 2.0]), np.array([3.0, -5.0]), activation="relu")
    array([4., 0.])
    """
    x = as_real(x, "add", "x")
    r = of_shape(r, x.shape, "add", "r", x, "that of `x`")
    relu = activation_is_relu(activation, "add")
    count = _threads.resolve(num_threads)
    y = empty(x.shape, x.dtype, "add")
    _dispatch.active.modules[x.dtype.char].add(x.reshape(-1), r.reshape(-1), y.reshape(-1), relu, count)
    return y


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


def softmax_cross_entropy(
    logits: Array, labels: Array, *, num_threads: int | None = None
) -> tuple[float, Array]:
    """Mean of -sum(labels log(softmax(logits))) over the rows, and its gradient.

    Parameters
    ----------
    logits : ndarray of shape (N, C), float32 or float64
    labels : ndarray of shape (N,) of integers in [0, C), or (N, C) of weights
        Integers, or rows such as one-hot ones.

    Returns
    -------
    loss : float
        0.0 for N = 0.
    dlogits : ndarray of shape (N, C)
        (softmax(logits) sum(labels) - labels) / N.

    Raises
    ------
    TypeError, ValueError
        If `labels` is of neither form, or an integer label is outside [0, C).

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import softmax_cross_entropy
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(loss, 6), dlogits
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    where = "softmax_cross_entropy"
    x = as_real(logits, where, "logits")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{where}: `logits` has shape {x.shape}; expected (N, C) with C >= 1")
    N, C = x.shape
    labels = np.asarray(labels)
    places = rows = None
    if labels.shape == (N,) and labels.dtype.kind in "iu":
        if N and not (0 <= labels.min() and labels.max() < C):
            raise ValueError(
                f"{where}: `labels` (shape {labels.shape}) reach from {labels.min()} to "
                f"{labels.max()}; expected 0 to {C - 1} for `logits` of shape {x.shape}"
            )
        places = np.ascontiguousarray(labels, np.int64)
    elif labels.shape == (N, C) and labels.dtype.kind in "iufb":
        rows = np.ascontiguousarray(labels, x.dtype)
    else:
        raise ValueError(
            f"{where}: `labels` has shape {labels.shape} and dtype {labels.dtype}; expected integers "
            f"of shape ({N},) or one-hot rows of shape ({N}, {C}) for `logits` of shape {x.shape}"
        )
    count = _threads.resolve(num_threads)
    dx = empty(x.shape, x.dtype, where)
    loss = _dispatch.active.modules[x.dtype.char].softmax_cross_entropy(
        x, places, rows, dx, np.empty(N), count)
    return loss, dx
