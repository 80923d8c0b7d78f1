"""The assignment *Convolutional Neural Networks: Step by Step*, on the library's kernels.

Names, shapes and caches are the assignment's, and so is its notation: `A_prev` is (m, n_H_prev,
n_W_prev, n_C_prev), `W` is (f, f, n_C_prev, n_C), `b` is (1, 1, 1, n_C). Everything is computed in
float64, whatever real numbers come in. Where its loops fail, these work: the backward pass with
pad=0, and a bias that is an array of one element.

For other precisions, padding, dilation or groups use `pyconv.conv2d` and the pools beside it.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arguments import choose
from ..functional import avg_pool2d, avg_pool2d_backward, conv2d, conv2d_backward, max_pool2d
from ..geometry import integer

Float64 = NDArray[np.float64]
ConvCache = tuple[ArrayLike, ArrayLike, ArrayLike, Mapping[str, int]]
PoolCache = tuple[ArrayLike, Mapping[str, int]]

IMAGES = ("m", "n_H", "n_W", "n_C")
FILTERS = ("f", "f", "n_C_prev", "n_C")


def zero_pad(X: ArrayLike, pad: int) -> Float64:
    """Surround every image with `pad` rows and columns of zeros.

    Parameters
    ----------
    X : array of shape (m, n_H, n_W, n_C)
    pad : int, at least 0

    Returns
    -------
    X_pad : ndarray of shape (m, n_H + 2*pad, n_W + 2*pad, n_C), float64

    Raises
    ------
    ValueError
        If `X` is not a batch of images or `pad` is negative.

    Examples
    --------
    >>> zero_pad([[[[7.0]]]], 1)[0, :, :, 0]
    array([[0., 0., 0.],
           [0., 7., 0.],
           [0., 0., 0.]])
    """
    x = _array(X, "X", IMAGES)
    p = integer(pad, "pad", least=0)
    return np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))


def conv_single_step(a_slice_prev: ArrayLike, W: ArrayLike, b: ArrayLike) -> np.float64:
    """One output of a convolution: ``sum(a_slice_prev * W) + b``.

    Parameters
    ----------
    a_slice_prev : array of shape (f, f, n_C_prev)
        The window of the input that the filter covers.
    W : array of shape (f, f, n_C_prev)
        One filter.
    b : number, or array of one element
        Its bias.

    Returns
    -------
    Z : float64

    Raises
    ------
    ValueError
        If the slice and the filter differ in shape, or `b` is not one number.

    Examples
    --------
    >>> float(conv_single_step([[[1], [2]], [[3], [4]]], [[[1], [0]], [[0], [1]]], 10))
    15.0
    """
    a = _array(a_slice_prev, "a_slice_prev", ("f", "f", "n_C_prev"))
    w = _array(W, "W", ("f", "f", "n_C_prev"))
    bias = _array(b, "b")
    if a.shape != w.shape:
        raise ValueError(
            f"`a_slice_prev` has shape {a.shape} but `W` has {w.shape}; cut the slice to the size "
            "of the filter"
        )
    if bias.size != 1:
        raise ValueError(
            f"`b` has shape {bias.shape}; one step of a convolution takes one bias: pass "
            "b[:, :, :, c] of filter c"
        )
    return np.float64(np.sum(a * w) + bias.item())


def conv_forward(
    A_prev: ArrayLike, W: ArrayLike, b: ArrayLike, hparameters: Mapping[str, int]
) -> tuple[Float64, ConvCache]:
    """Convolve a batch of images with n_C filters.

    Parameters
    ----------
    A_prev : array of shape (m, n_H_prev, n_W_prev, n_C_prev)
    W : array of shape (f, f, n_C_prev, n_C)
    b : array of shape (1, 1, 1, n_C)
    hparameters : dict
        "stride", at least 1, and "pad", the zeros on every side.

    Returns
    -------
    Z : ndarray of shape (m, n_H, n_W, n_C), float64
        n_H = (n_H_prev - f + 2*pad) // stride + 1, and n_W likewise.
    cache : tuple
        (A_prev, W, b, hparameters) as they were passed, for `conv_backward`.

    Raises
    ------
    ValueError
        If shapes disagree, or the filter exceeds the padded image.

    Notes
    -----
    2 * m * n_H * n_W * n_C * f * f * n_C_prev operations, in the kernel of `pyconv.conv2d`.

    Examples
    --------
    >>> Z, cache = conv_forward(np.ones((1, 5, 5, 2)), np.ones((3, 3, 2, 4)),
    ...                         np.zeros((1, 1, 1, 4)), {"stride": 2, "pad": 1})
    >>> Z.shape
    (1, 3, 3, 4)
    >>> Z[0, :, :, 0]
    array([[ 8., 12.,  8.],
           [12., 18., 12.],
           [ 8., 12.,  8.]])
    """
    x, w, bias, stride, pad, _ = _conv_arguments(A_prev, W, b, hparameters)
    Z = conv2d(x, w, bias.reshape(-1), stride=stride, padding=pad)
    return Z, (A_prev, W, b, hparameters)


def conv_backward(dZ: ArrayLike, cache: ConvCache) -> tuple[Float64, Float64, Float64]:
    """Gradients of a convolution.

    Parameters
    ----------
    dZ : array of shape (m, n_H, n_W, n_C)
        Gradient of the cost by the output of `conv_forward`.
    cache : tuple
        What `conv_forward` returned.

    Returns
    -------
    dA_prev : ndarray of shape (m, n_H_prev, n_W_prev, n_C_prev), float64
    dW : ndarray of shape (f, f, n_C_prev, n_C), float64
    db : ndarray of shape (1, 1, 1, n_C), float64

    Raises
    ------
    ValueError
        If `dZ` does not have the shape of that output, or `cache` is not of a convolution.

    Examples
    --------
    >>> Z, cache = conv_forward(np.ones((1, 2, 2, 1)), np.ones((2, 2, 1, 1)),
    ...                         np.zeros((1, 1, 1, 1)), {"stride": 1, "pad": 0})
    >>> dA_prev, dW, db = conv_backward(3 * np.ones_like(Z), cache)
    >>> dA_prev[0, :, :, 0]
    array([[3., 3.],
           [3., 3.]])
    """
    x, w, _, stride, pad, out_shape = _conv_arguments(*_unpack(cache, "conv_forward", 4))
    dy = _gradient(dZ, "dZ", out_shape)
    gradients = conv2d_backward(dy, x, w, stride=stride, padding=pad)
    dA_prev, dW, db = cast(tuple[Float64, Float64, Float64], gradients)
    return dA_prev, dW, db.reshape(1, 1, 1, -1)


def pool_forward(
    A_prev: ArrayLike, hparameters: Mapping[str, int], mode: str = "max"
) -> tuple[Float64, PoolCache]:
    """Maximum or mean of every f x f window, channel by channel, without padding.

    Parameters
    ----------
    A_prev : array of shape (m, n_H_prev, n_W_prev, n_C)
    hparameters : dict
        "f", the side of the window, and "stride", both at least 1.
    mode : {"max", "average"}, default "max"

    Returns
    -------
    A : ndarray of shape (m, n_H, n_W, n_C), float64
        n_H = (n_H_prev - f) // stride + 1, and n_W likewise.
    cache : tuple
        (A_prev, hparameters) as they were passed, for `pool_backward`.

    Raises
    ------
    ValueError
        If `mode` is neither, or the window exceeds the image.

    Examples
    --------
    >>> image = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> A, cache = pool_forward(image, {"f": 2, "stride": 2})
    >>> A[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> pool_forward(image, {"f": 2, "stride": 2}, mode="average")[0][0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    x, f, stride, _ = _pool_arguments(A_prev, hparameters, mode)
    pool = max_pool2d if mode == "max" else avg_pool2d
    return pool(x, f, stride=stride), (A_prev, hparameters)


def create_mask_from_window(x: ArrayLike) -> NDArray[np.bool_]:
    """True wherever `x` has its maximum: more than once if the maximum is tied.

    Parameters
    ----------
    x : array of shape (f, f), or any other with at least one element

    Returns
    -------
    mask : ndarray of the shape of `x`, bool

    Raises
    ------
    ValueError
        If `x` is empty.

    Examples
    --------
    >>> create_mask_from_window([[1, 3], [3, 2]])
    array([[False,  True],
           [ True, False]])
    """
    window = _array(x, "x")
    if window.size == 0:
        raise ValueError(f"`x` has shape {window.shape}: a window without elements has no maximum")
    return window == window.max()


def distribute_value(dz: float, shape: tuple[int, int]) -> Float64:
    """Share a gradient equally among the elements of a window.

    Parameters
    ----------
    dz : number
    shape : tuple of int
        (n_H, n_W) of the window.

    Returns
    -------
    a : ndarray of `shape`, float64
        Every element is dz / (n_H * n_W).

    Raises
    ------
    ValueError
        If `shape` is not two positive numbers, or `dz` is not one number.

    Examples
    --------
    >>> distribute_value(2, (2, 2))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    value = _array(dz, "dz")
    if value.size != 1:
        raise ValueError(f"`dz` has shape {value.shape}; it must be one number")
    if len(shape) != 2:
        raise ValueError(f"`shape` is {shape}; it must be (n_H, n_W)")
    n_H, n_W = (integer(n, "shape", least=1) for n in shape)
    return np.full((n_H, n_W), value.item() / (n_H * n_W))


def pool_backward(dA: ArrayLike, cache: PoolCache, mode: str = "max") -> Float64:
    """Gradient of a pooling layer by its input.

    Parameters
    ----------
    dA : array of shape (m, n_H, n_W, n_C)
        Gradient of the cost by the output of `pool_forward`.
    cache : tuple
        What `pool_forward` returned.
    mode : {"max", "average"}, default "max"
        As in the forward pass.

    Returns
    -------
    dA_prev : ndarray of shape (m, n_H_prev, n_W_prev, n_C), float64

    Raises
    ------
    ValueError
        If `mode` is neither, `dA` does not have the shape of that output, or `cache` is not of
        a pooling layer.

    Notes
    -----
    With "max", every element equal to its window's maximum receives the whole gradient, as the
    mask of `create_mask_from_window` says. `pyconv.max_pool2d_backward` gives it to the first.

    Examples
    --------
    >>> A, cache = pool_forward(np.reshape([1.0, 3.0, 3.0, 2.0], (1, 2, 2, 1)),
    ...                         {"f": 2, "stride": 1})
    >>> pool_backward(10 * np.ones_like(A), cache)[0, :, :, 0]
    array([[ 0., 10.],
           [10.,  0.]])
    """
    A_prev, hparameters = _unpack(cache, "pool_forward", 2)
    x, f, stride, out_shape = _pool_arguments(A_prev, hparameters, mode)
    dy = _gradient(dA, "dA", out_shape)
    if mode == "average":
        return avg_pool2d_backward(dy, x.shape, f, stride=stride)

    _, n_H, n_W, _ = out_shape
    y = max_pool2d(x, f, stride=stride)
    dx = np.zeros_like(x)
    # Element (i, j) of all windows at once: windows overlap, but their elements (i, j) do not.
    for i, j in np.ndindex(f, f):
        elements = np.s_[:, i : i + n_H * stride : stride, j : j + n_W * stride : stride]
        dx[elements] += np.where(x[elements] == y, dy, 0.0)
    return dx


def _conv_arguments(
    A_prev: ArrayLike, W: ArrayLike, b: ArrayLike, hparameters: Mapping[str, int]
) -> tuple[Float64, Float64, Float64, int, int, tuple[int, ...]]:
    """Checked x, w, b, stride, pad and the shape of the output."""
    x = _array(A_prev, "A_prev", IMAGES)
    w = _array(W, "W", FILTERS)
    bias = _array(b, "b")
    stride = _hyperparameter(hparameters, "stride", least=1)
    pad = _hyperparameter(hparameters, "pad", least=0)
    f, f_W, n_C_prev, n_C = w.shape
    if f != f_W or f == 0:
        raise ValueError(
            f"`W` has filters of {f} x {f_W} (shape {w.shape}); the assignment's are square: "
            "use pyconv.conv2d for others"
        )
    if n_C_prev != x.shape[3]:
        raise ValueError(
            f"`A_prev` has {x.shape[3]} channels (shape {x.shape}) but `W` expects {n_C_prev} "
            f"(shape {w.shape}); it must be (f, f, n_C_prev, n_C)"
        )
    if bias.shape != (1, 1, 1, n_C):
        raise ValueError(
            f"`b` has shape {bias.shape}, expected (1, 1, 1, {n_C}) for `W` of shape {w.shape}; "
            "use b.reshape(1, 1, 1, -1)"
        )
    return x, w, bias, stride, pad, _output_shape(x.shape, f, stride, pad, n_C)


def _pool_arguments(
    A_prev: ArrayLike, hparameters: Mapping[str, int], mode: str
) -> tuple[Float64, int, int, tuple[int, ...]]:
    """Checked x, f, stride and the shape of the output."""
    choose(mode, "mode", ("max", "average"))
    x = _array(A_prev, "A_prev", IMAGES)
    f = _hyperparameter(hparameters, "f", least=1)
    stride = _hyperparameter(hparameters, "stride", least=1)
    return x, f, stride, _output_shape(x.shape, f, stride, 0, x.shape[3])


def _output_shape(
    shape: tuple[int, ...], f: int, stride: int, pad: int, n_C: int
) -> tuple[int, ...]:
    m, n_H_prev, n_W_prev, _ = shape
    if f > min(n_H_prev, n_W_prev) + 2 * pad:
        raise ValueError(
            f"a window of {f} x {f} exceeds `A_prev` of shape {shape} with pad={pad}; the output "
            "would be empty: use a smaller window or more padding"
        )
    n_H, n_W = ((n - f + 2 * pad) // stride + 1 for n in (n_H_prev, n_W_prev))
    return m, n_H, n_W, n_C


def _array(value: ArrayLike, name: str, axes: tuple[str, ...] | None = None) -> Float64:
    """`value` as a float64 array, with an axis for every name in `axes`."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` has dtype {array.dtype}; it must hold real numbers")
    if axes is not None and array.ndim != len(axes):
        raise ValueError(f"`{name}` has shape {array.shape}; it must be ({', '.join(axes)})")
    return array.astype(np.float64, copy=False)


def _gradient(value: ArrayLike, name: str, shape: tuple[int, ...]) -> Float64:
    gradient = _array(value, name)
    if gradient.shape != shape:
        raise ValueError(
            f"`{name}` has shape {gradient.shape}, expected {shape}: the shape of the output that "
            "the forward pass returned with this cache"
        )
    return gradient


def _hyperparameter(hparameters: Mapping[str, int], key: str, least: int) -> int:
    if key not in hparameters:
        raise ValueError(f"`hparameters` is {hparameters!r}; it must have the key {key!r}")
    return integer(hparameters[key], f"hparameters[{key!r}]", least=least)


def _unpack(cache: Any, source: str, length: int) -> Any:
    if not isinstance(cache, tuple) or len(cache) != length:
        got = f"a tuple of {len(cache)}" if isinstance(cache, tuple) else type(cache).__name__
        raise ValueError(f"`cache` is {got}; pass the tuple of {length} that {source} returned")
    return cache
