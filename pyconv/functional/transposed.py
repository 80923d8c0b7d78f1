"""Transposed convolution and its gradients: a convolution with its directions exchanged."""

from typing import Any

from .. import _dispatch, _threads
from ._arrays import Array, activation_is_relu, as_real, empty, of_shape, wanted_ones
from ._plans import cached_conv_transpose, problem_of
from .convolution import new_gradients


def conv2d_transpose(
    x: Array, w: Array, b: Array | None = None, *, stride: Any = 1, padding: Any = "valid",
    output_padding: Any = 0, dilation: Any = 1, groups: int = 1, activation: str | None = None,
    num_threads: int | None = None,
) -> Array:
    """Transposed convolution: each input pixel adds its filters, `stride` pixels apart.

    y[n, h stride + kh dilation - top, w stride + kw dilation - left, o] is b[o] + the sum of
    x[n, h, w, i] w[kh, kw, o, i]: the input gradient of the convolution with this `w`.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C_in), float32 or float64
    w : ndarray of shape (KH, KW, C_out // groups, C_in), dtype of `x`
        The filter of the convolution from y's shape to x's: its output channels are the input's.
    b : ndarray of shape (C_out,), optional
    stride, dilation : int or (h, w), default 1
    padding : {"valid", "same", "same_lower"}, int, (h, w) or ((top, bottom), (left, right))
        What is cropped from the output: nothing by "valid", the default. "same" crops what is more
        than H stride, half of it, rounded down, from the top; "same_lower" rounds up.
    output_padding : int or (h, w), default 0
        Rows and columns more at the bottom and at the right, before `padding` crops.
    groups : int, default 1
        Input and output channels are cut into `groups` parts.
    activation : {None, "relu"}
        Applied in the same pass.
    num_threads : int, optional
        Default: see `set_num_threads`. Never changes the result.

    Returns
    -------
    y : ndarray of shape (N, OH, OW, C_out), dtype of `x`
        OH = (H - 1) stride + dilation (KH - 1) + 1 + output_padding - top - bottom; with "same",
        H stride.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together; nothing is computed then.
    MemoryError
        If y does not fit into memory.

    Examples
    --------
    >>> import numpy as np
    >>> import pyconv
    >>> x = np.array([1.0, 10.0, 100.0]).reshape(1, 1, 3, 1)
    >>> w = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    >>> pyconv.conv2d_transpose(x, w, stride=(1, 2)).ravel()
    array([  1.,   2.,  13.,  20., 130., 200., 300.])
    """
    where = "conv2d_transpose"
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    problem = problem_of(cached_conv_transpose, where, (x.shape, w.shape), stride, padding,
                         output_padding, dilation, groups)
    shape = problem.geometry.x_shape
    if b is not None:
        b = of_shape(b, shape[3:], where, "b", x, f"one number for each of the {shape[3]} output "
                     f"channels (`w` of shape {w.shape}, groups={groups})")
    relu = activation_is_relu(activation, where)
    count = _threads.resolve(num_threads)
    y = empty(shape, x.dtype, where)
    plan, free = problem.borrow(_dispatch.active.modules[x.dtype.char])
    plan.transpose(x, w, b, relu, y, count)
    free.append(plan)
    return y


def conv2d_transpose_backward(
    dy: Array, x: Array, w: Array, *, stride: Any = 1, padding: Any = "valid",
    output_padding: Any = 0, dilation: Any = 1, groups: int = 1,
    need: tuple[str, ...] = ("x", "w", "b"), num_threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d_transpose` by its input, its filters and its bias.

    dx is the convolution of dy with `w`; dw is that convolution's filter gradient, where dy is the
    image and x the gradient of the output; db[o] = sum of dy[..., o].

    Parameters
    ----------
    dy : ndarray of shape (N, OH, OW, C_out)
        Gradient of the loss by the output (before any activation).
    x, w, stride, padding, output_padding, dilation, groups, num_threads
        As they were given to `conv2d_transpose`.
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
    """
    where = "conv2d_transpose_backward"
    wanted = wanted_ones(need, where)
    x = as_real(x, where, "x")
    w = as_real(w, where, "w", x)
    problem = problem_of(cached_conv_transpose, where, (x.shape, w.shape), stride, padding,
                         output_padding, dilation, groups)
    shape = problem.geometry.x_shape
    dy = of_shape(dy, shape, where, "dy", x, f"the output's for `x` of shape {x.shape} and `w` of "
                  f"shape {w.shape}")
    count = _threads.resolve(num_threads)
    plan, free = problem.borrow(_dispatch.active.modules[x.dtype.char])
    gradients = new_gradients(where, x, w, wanted, shape[3:])
    if x.shape[0]:
        plan.transpose_backward(dy, x, w, *gradients, count)
    free.append(plan)
    return gradients
