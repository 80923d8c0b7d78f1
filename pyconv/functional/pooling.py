"""Max and average pooling, and their gradients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _dispatch, _threads
from ._arrays import (
    Array,
    as_real,
    batch_of,
    check_indices,
    demand_int32,
    empty,
    flag,
    indices_like,
    of_shape,
    shape_of_images,
)
from ._plans import cached_pool, problem_of


def max_pool2d(
    x: Array, window: Any, *, stride: Any = None, padding: Any = "valid", dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, num_threads: int | None = None,
) -> Any:
    """Maximum over each window of an NHWC batch; padding counts as -inf.

    The first maximum in row-major order wins, and the first NaN wins over all.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C), float32 or float64
    window : int or (h, w)
    stride : int or (h, w), optional
        Default: the window.
    padding, dilation
        As in `conv2d`.
    ceil_mode : bool, default False
        Round the number of windows up; the last may not start in the padding behind the image.
    return_indices : bool, default False
        Also return where each maximum was found.
    num_threads : int, optional

    Returns
    -------
    y : ndarray of shape (N, OH, OW, C)
    indices : ndarray of int32, shape of y; only with `return_indices`
        h * W + w of the winner in the unpadded image; `max_pool2d_backward` takes them.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together, or a window would hold nothing but padding.
    """
    where = "max_pool2d"
    x = as_real(x, where, "x")
    ceil_mode = flag(ceil_mode, where, "ceil_mode")
    return_indices = flag(return_indices, where, "return_indices")
    problem = problem_of(cached_pool, where, x.shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    demand_int32(geometry.x_shape, where, "`x`")
    count = _threads.resolve(num_threads)
    y = empty(geometry.y_shape, x.dtype, where)
    indices = empty(geometry.y_shape, np.int32, where) if return_indices else None
    module = _dispatch.active.modules[x.dtype.char]
    scratch, free = problem.borrow(module)
    module.max_pool(x, y, indices, geometry.window, geometry.stride, geometry.dilation,
                    geometry.pads, scratch, count)
    free.append(scratch)
    return (y, indices) if return_indices else y


def max_pool2d_backward(
    dy: Array, indices: NDArray[np.int32], x_shape: tuple[int, ...], *,
    num_threads: int | None = None,
) -> Array:
    """Gradient of `max_pool2d`: each dy goes to the place that won.

    Parameters
    ----------
    dy : ndarray of shape (N, OH, OW, C)
    indices : ndarray of int32, shape of `dy`
        From ``max_pool2d(..., return_indices=True)``.
    x_shape : tuple
        Shape (N, H, W, C) of the pooled batch.
    num_threads : int, optional

    Returns
    -------
    dx : ndarray of shape `x_shape`
    """
    where = "max_pool2d_backward"
    dy = as_real(dy, where, "dy")
    x_shape = shape_of_images(x_shape, where)
    batch_of(dy, x_shape, where)
    places = indices_like(indices, dy, where)
    module = _dispatch.active.modules[dy.dtype.char]
    count = _threads.resolve(num_threads)
    dx = empty(x_shape, dy.dtype, where)
    if not dy.size:
        dx.fill(0)
    elif not module.max_pool_backward(dy, places, dx, count):
        check_indices(module, places, 0, x_shape, where)
    return dx


def avg_pool2d(
    x: Array, window: Any, *, stride: Any = None, padding: Any = "valid", dilation: Any = 1,
    ceil_mode: bool = False, count_include_pad: bool = False, num_threads: int | None = None,
) -> Array:
    """Average over each window of an NHWC batch.

    Parameters
    ----------
    x, window, stride, padding, dilation, ceil_mode, num_threads
        As in `max_pool2d`.
    count_include_pad : bool, default False
        Divide by the elements inside image and padding, not by those inside the image alone. What
        `ceil_mode` adds behind the padding never counts.

    Returns
    -------
    y : ndarray of shape (N, OH, OW, C)

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together, or a window would hold nothing but padding.
    """
    where = "avg_pool2d"
    x = as_real(x, where, "x")
    ceil_mode = flag(ceil_mode, where, "ceil_mode")
    problem = problem_of(cached_pool, where, x.shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    include = flag(count_include_pad, where, "count_include_pad")
    count = _threads.resolve(num_threads)
    y = empty(geometry.y_shape, x.dtype, where)
    module = _dispatch.active.modules[x.dtype.char]
    scratch, free = problem.borrow(module)
    module.average_pool(x, y, geometry.window, geometry.stride, geometry.dilation, geometry.pads,
                        include, scratch, count)
    free.append(scratch)
    return y


def avg_pool2d_backward(
    dy: Array, x_shape: tuple[int, ...], window: Any, *, stride: Any = None,
    padding: Any = "valid", dilation: Any = 1, ceil_mode: bool = False,
    count_include_pad: bool = False, num_threads: int | None = None,
) -> Array:
    """Gradient of `avg_pool2d`: each pixel gets dy / count of every window that covers it.

    Parameters
    ----------
    dy : ndarray of shape (N, OH, OW, C)
    x_shape : tuple
        Shape (N, H, W, C) of the pooled batch.
    window, stride, padding, dilation, ceil_mode, count_include_pad, num_threads
        As they were given to `avg_pool2d`.

    Returns
    -------
    dx : ndarray of shape `x_shape`
    """
    where = "avg_pool2d_backward"
    dy = as_real(dy, where, "dy")
    ceil_mode = flag(ceil_mode, where, "ceil_mode")
    x_shape = shape_of_images(x_shape, where)
    problem = problem_of(cached_pool, where, x_shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    dy = of_shape(dy, geometry.y_shape, where, "dy", dy, f"the output's for `x_shape` {x_shape}")
    include = flag(count_include_pad, where, "count_include_pad")
    count = _threads.resolve(num_threads)
    dx = empty(x_shape, dy.dtype, where)
    module = _dispatch.active.modules[dy.dtype.char]
    scratch, free = problem.borrow(module)
    module.average_pool_backward(dy, dx, geometry.window, geometry.stride, geometry.dilation,
                                 geometry.pads, include, scratch, count)
    free.append(scratch)
    return dx


def global_max_pool2d(
    x: Array, *, return_indices: bool = False, num_threads: int | None = None
) -> Any:
    """Maximum of each channel over the whole image; ties and NaN as in `max_pool2d`.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C), float32 or float64
    return_indices : bool, default False
        Also return where each maximum was found.
    num_threads : int, optional

    Returns
    -------
    y : ndarray of shape (N, C)
    indices : ndarray of int32, shape of y; only with `return_indices`
        h * W + w; `global_max_pool2d_backward` takes them.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import global_max_pool2d
    >>> x = np.array([3.0, 7.0, 5.0, 2.0]).reshape(1, 2, 2, 1)
    >>> global_max_pool2d(x, return_indices=True)
    (array([[7.]]), array([[1]], dtype=int32))
    """
    where = "global_max_pool2d"
    x = _images(x, where)
    flag(return_indices, where, "return_indices")
    y, indices = max_pool2d(x, x.shape[1:3], return_indices=True, num_threads=num_threads)
    return (y[:, 0, 0], indices[:, 0, 0]) if return_indices else y[:, 0, 0]


def global_max_pool2d_backward(
    dy: Array, indices: NDArray[np.int32], x_shape: tuple[int, ...], *,
    num_threads: int | None = None,
) -> Array:
    """Gradient of `global_max_pool2d`: each dy goes to the place that won.

    Parameters
    ----------
    dy : ndarray of shape (N, C)
    indices : ndarray of int32, shape of `dy`
        From ``global_max_pool2d(..., return_indices=True)``.
    x_shape : tuple
        Shape (N, H, W, C) of the pooled batch.
    num_threads : int, optional

    Returns
    -------
    dx : ndarray of shape `x_shape`
    """
    where = "global_max_pool2d_backward"
    dy, x_shape = _rows(dy, x_shape, where)
    places = indices_like(indices, dy, where)
    check_indices(_dispatch.active.modules[dy.dtype.char], places[:, None, None], 0, x_shape, where)
    return max_pool2d_backward(dy[:, None, None], places[:, None, None], x_shape,
                               num_threads=num_threads)


def global_avg_pool2d(x: Array, *, num_threads: int | None = None) -> Array:
    """Mean of each channel over the whole image.

    Parameters
    ----------
    x : ndarray of shape (N, H, W, C), float32 or float64
    num_threads : int, optional

    Returns
    -------
    y : ndarray of shape (N, C)
    """
    x = _images(x, "global_avg_pool2d")
    return avg_pool2d(x, x.shape[1:3], num_threads=num_threads)[:, 0, 0]


def global_avg_pool2d_backward(
    dy: Array, x_shape: tuple[int, ...], *, num_threads: int | None = None
) -> Array:
    """Gradient of `global_avg_pool2d`: dy / (H W) for every pixel.

    Parameters
    ----------
    dy : ndarray of shape (N, C)
    x_shape : tuple
        Shape (N, H, W, C) of the pooled batch.
    num_threads : int, optional

    Returns
    -------
    dx : ndarray of shape `x_shape`
    """
    dy, x_shape = _rows(dy, x_shape, "global_avg_pool2d_backward")
    return avg_pool2d_backward(dy[:, None, None], x_shape, x_shape[1:3], num_threads=num_threads)


def _images(x: Any, where: str) -> Array:
    x = as_real(x, where, "x")
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{where}: `x` has shape {x.shape}; expected (N, H, W, C) with H, W and C 1 or more"
        )
    return x


def _rows(dy: Any, x_shape: Any, where: str) -> tuple[Array, tuple[int, ...]]:
    dy = as_real(dy, where, "dy")
    shape = shape_of_images(x_shape, where)
    return of_shape(dy, (shape[0], shape[3]), where, "dy", dy,
                    f"(N, C) for `x_shape` {shape}"), shape
