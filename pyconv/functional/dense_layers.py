"""Dense layers: 1x1 convolutions of one pixel an example."""

from typing import Any

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
