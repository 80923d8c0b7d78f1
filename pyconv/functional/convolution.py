"""Convolution, alone and with max pooling, and the gradients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _dispatch, _threads
from ._arrays import (
    Array,
    activation_is_relu,
    as_real,
    check_indices,
    demand_int32,
    empty,
    indices_like,
    of_shape,
    wanted_ones,
)
from ._plans import Problem, cached_conv, cached_conv_pool, problem_of


def conv2d(
    x: Array, w: Array, b: Array | None = None, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, groups: int = 1, activation: str | None = None, out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """2-D cross-correlation of an NHWC batch with HWIO filters.

    y[n, oh, ow, o] = b[o] + sum over kh, kw, i of
    x[n, oh stride - top + kh dilation, ow stride - left + kw dilation, i] w[kh, kw, i, o],
    with zeros outside the image.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C_in), float32 or float64
    w : ndarray of shape (KH, KW, C_in // groups, C_out), dtype of `x`
    b : ndarray of shape (C_out,), optional
    stride, dilation : int or (h, w), default 1
    padding : {"valid", "same", "same_lower"}, int, (h, w) or ((top, bottom), (left, right))
        Zeros around the image, default "valid" (none). "same" is TensorFlow's rule.
    groups : int, default 1
        Input and output channels are cut into `groups` parts, convolved part by part.
    activation : {None, "relu"}
        Applied in the same pass.
    out : ndarray of shape (N, OH, OW, C_out), optional
        C-contiguous array of `x`'s dtype to write y into; it may not overlap the inputs.
    num_threads : int, optional
        Default: see `set_num_threads`. Never changes the result.

    Returns
    -------
    y : ndarray of shape (N, OH, OW, C_out), dtype of `x`
        OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together; nothing is computed then.
    MemoryError
        If y does not fit into memory.

    Notes
    -----
    2 N OH OW C_out KH KW C_in / groups operations. Sums run over kh, kw and i in that order.

    Examples
    --------
    >>> import numpy as np
    >>> import pyconv
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> w = np.ones((2, 2, 1, 1), np.float32)
    >>> pyconv.conv2d(x, w)[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    x = as_real(x, "conv2d", "x")
    w = as_real(w, "conv2d", "w", x)
    problem = problem_of(cached_conv, "conv2d", (x.shape, w.shape), stride, padding, dilation, groups)
    shape = problem.geometry.y_shape
    if b is not None:
        b = of_shape(b, shape[3:], "conv2d", "b", x, f"one number for each of `w`'s {shape[3]} "
                      f"output channels (`w` of shape {w.shape})")
    relu = activation_is_relu(activation, "conv2d")
    count = _threads.resolve(num_threads)
    if out is None:
        out = empty(shape, x.dtype, "conv2d")
    else:
        _check_out(out, shape, x, (x, w, b))
    module = _dispatch.active.modules[x.dtype.char]
    plan, free = problem.borrow(module)
    plan.forward(x, w, b, relu, out, count)
    free.append(plan)
    return out


def _check_out(out: Any, shape: tuple[int, ...], x: Array, inputs: tuple[Any, ...]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"conv2d: `out` is a {type(out).__name__}; expected an ndarray")
    if out.shape != shape or out.dtype != x.dtype:
        raise ValueError(
            f"conv2d: `out` has shape {out.shape} and dtype {out.dtype}; expected {shape} and "
            f"{x.dtype}"
        )
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError(
            f"conv2d: `out` of shape {out.shape} is not a writeable C-contiguous array; pass "
            "np.empty(shape, dtype)"
        )
    if any(np.may_share_memory(out, array) for array in inputs if array is not None):
        raise ValueError(
            f"conv2d: `out` of shape {out.shape} overlaps an input, which would be overwritten while "
            "it is read; pass another array"
        )


def conv2d_backward(
    dy: Array, x: Array, w: Array, *, stride: Any = 1, padding: Any = "valid", dilation: Any = 1,
    groups: int = 1, need: tuple[str, ...] = ("x", "w", "b"), num_threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d` by its input, its filters and its bias.

    dx[n, h, w, i] = sum of dy[n, oh, ow, o] w[kh, kw, i, o] over the outputs that used the pixel,
    dw[kh, kw, i, o] = sum over n, oh, ow of x[...] dy[n, oh, ow, o], db[o] = sum of dy[..., o].

    Parameters
    ----------
    dy : ndarray of shape (N, OH, OW, C_out)
        Gradient of the loss by the convolution's output (before any activation).
    x, w, stride, padding, dilation, groups, num_threads
        As they were given to `conv2d`.
    need : tuple of {"x", "w", "b"}, default all
        A gradient that is not named is returned as None and costs nothing.

    Returns
    -------
    dx, dw, db : ndarray or None
        Of the shapes of `x` and `w`, and (C_out,).

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together; nothing is computed then.

    Notes
    -----
    dx and dw cost as many operations as the forward pass, each.
    """
    where = "conv2d_backward"
    wanted = wanted_ones(need, where)
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    problem = problem_of(cached_conv, where, (x.shape, w.shape), stride, padding, dilation, groups)
    shape = problem.geometry.y_shape
    dy = of_shape(dy, shape, where, "dy", x, f"the output's for `x` of shape {x.shape} and `w` of "
                   f"shape {w.shape}")
    return gradients_of(where, problem, dy, x, w, wanted, num_threads)


def gradients_of(
    where: str, problem: Problem, dy: Array, x: Array, w: Array, wanted: tuple[bool, bool, bool],
    num_threads: int | None,
) -> tuple[Array | None, Array | None, Array | None]:
    count = _threads.resolve(num_threads)
    module = _dispatch.active.modules[x.dtype.char]
    plan, free = problem.borrow(module)
    gradients = new_gradients(where, x, w, wanted, w.shape[3:])
    if x.shape[0]:
        plan.backward(dy, x, w, *gradients, count)
    free.append(plan)
    return gradients


def new_gradients(
    where: str, x: Array, w: Array, wanted: tuple[bool, bool, bool], b_shape: tuple[int, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """Arrays for dx, dw and db, or None; zeros where an empty batch leaves nothing to compute."""
    make = np.empty if x.shape[0] else np.zeros
    return (
        empty(x.shape, x.dtype, where) if wanted[0] else None,
        make(w.shape, x.dtype) if wanted[1] else None,
        make(b_shape, x.dtype) if wanted[2] else None,
    )


def conv2d_algorithm(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, direction: str = "y",
    dtype: Any = np.float32,
) -> str:
    """What computes a convolution: "winograd", "depthwise" or "direct".

    Parameters
    ----------
    x_shape, w_shape, stride, padding, dilation, groups
        As the arrays and arguments of `conv2d`.
    direction : {"y", "dx", "dw"}
    dtype : {float32, float64}

    Returns
    -------
    str
    """
    where = "conv2d_algorithm"
    if direction not in ("y", "dx", "dw"):
        raise ValueError(f'{where}: `direction` is {direction!r}; expected "y", "dx" or "dw"')
    problem = problem_of(cached_conv, where, (tuple(x_shape), tuple(w_shape)), stride, padding,
                       dilation, groups)
    plan, free = problem.borrow(_dispatch.active.modules[np.dtype(dtype).char])
    free.append(plan)
    return plan.algorithm(direction)


def conv2d_max_pool2d(
    x: Array, w: Array, b: Array | None, window: Any, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, groups: int = 1, activation: str | None = None, pool_stride: Any = None,
    pool_padding: Any = "valid", num_threads: int | None = None,
) -> tuple[Array, NDArray[np.int32]]:
    """`conv2d`, then `max_pool2d`, as one: the convolution's output is never written to memory.

    Parameters
    ----------
    x, w, b, stride, padding, dilation, groups, activation, num_threads
        As in `conv2d`.
    window, pool_stride, pool_padding
        As `window`, `stride` and `padding` in `max_pool2d`.

    Returns
    -------
    y : ndarray of shape (N, PH, PW, C_out)
        Equal to ``max_pool2d(conv2d(...), window, ...)``.
    indices : ndarray of int32, shape of y
        oh * OW + ow of each winner in the convolution's output; -1 where ReLU cut it off.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together.
    """
    where = "conv2d_max_pool2d"
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    problem = problem_of(cached_conv_pool, where, (x.shape, w.shape), stride, padding, dilation,
                       groups, window, pool_stride, pool_padding)
    demand_int32(problem.geometry.y_shape, where, "the convolution's output")
    if b is not None:
        b = of_shape(b, w.shape[3:], where, "b", x, f"one number for each of `w`'s {w.shape[3]} "
                      f"output channels (`w` of shape {w.shape})")
    relu = activation_is_relu(activation, where)
    count = _threads.resolve(num_threads)
    shape = problem.pool.y_shape  # type: ignore[attr-defined]
    y, indices = empty(shape, x.dtype, where), empty(shape, np.int32, where)
    module = _dispatch.active.modules[x.dtype.char]
    plan, free = problem.borrow(module)
    plan.forward(x, w, b, relu, y, indices, count)
    free.append(plan)
    return y, indices


def conv2d_max_pool2d_backward(
    dy: Array, indices: NDArray[np.int32], x: Array, w: Array, window: Any, *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, pool_stride: Any = None,
    pool_padding: Any = "valid", need: tuple[str, ...] = ("x", "w", "b"),
    num_threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d_max_pool2d` by its input, its filters and its bias.

    Parameters
    ----------
    dy : ndarray of shape (N, PH, PW, C_out)
    indices : ndarray of int32, shape of `dy`
        From `conv2d_max_pool2d`.
    x, w, window, stride, padding, dilation, groups, pool_stride, pool_padding, num_threads
        As they were given to `conv2d_max_pool2d`.
    need : tuple of {"x", "w", "b"}, default all
        A gradient that is not named is returned as None and costs nothing.

    Returns
    -------
    dx, dw, db : ndarray or None

    Notes
    -----
    Where the window is large, dw and dx are sums over the winners: N PH PW C_out KH KW C_in
    multiply-adds each. Elsewhere dy is first spread over the convolution's output.
    """
    where = "conv2d_max_pool2d_backward"
    wanted = wanted_ones(need, where)
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    problem = problem_of(cached_conv_pool, where, (x.shape, w.shape), stride, padding, dilation,
                       groups, window, pool_stride, pool_padding)
    z_shape = problem.geometry.y_shape
    shape = problem.pool.y_shape  # type: ignore[attr-defined]
    dy = of_shape(dy, shape, where, "dy", x, f"the output's for `x` of shape {x.shape} and `w` of "
                   f"shape {w.shape}")
    places = indices_like(indices, dy, where)
    module = _dispatch.active.modules[x.dtype.char]
    check_indices(module, places, -1, z_shape, where)
    count = _threads.resolve(num_threads)
    gradients = new_gradients(where, x, w, wanted, w.shape[3:])
    plan, free = problem.borrow(module)
    if x.shape[0]:
        plan.backward(dy, places, x, w, *gradients, count)
    free.append(plan)
    return gradients
