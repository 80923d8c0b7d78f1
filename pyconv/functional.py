"""Operations and their gradients on NumPy arrays: check, allocate, call one kernel entry.

Images are NHWC, filters HWIO, numbers float32 or float64 (both arrays the same). Any layout of an
array works; one that is not C-contiguous is copied once. Inputs are never written to, and results
are the same bits for any number of threads.
"""

import os
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _cpu, _dispatch, _threads
from ._threads import get_num_threads, set_num_threads, threads
from ._version import __version__
from .geometry import conv_geometry, integer, pool_geometry

__all__ = [
    "adam_step", "avg_pool2d", "avg_pool2d_backward", "conv2d", "conv2d_backward",
    "conv2d_algorithm", "conv2d_max_pool2d", "conv2d_max_pool2d_backward", "dense",
    "dense_backward", "get_num_threads", "info", "max_pool2d", "max_pool2d_backward", "relu",
    "relu_backward", "set_algorithm", "set_num_threads", "sgd_step", "softmax", "softmax_cross_entropy", "threads",
]

Array = NDArray[Any]
_PLANS = 64  # problems whose plans (with their workspaces) are kept


# ------------------------------------------------------------------------------- arrays and problems

def _array(value: Any, where: str, name: str, like: Array | None = None) -> Array:
    """`value` as a C-contiguous array of float32 or float64 (of `like`'s dtype)."""
    if type(value) is not np.ndarray or value.dtype.char not in "fd" or not (
        (flags := value.flags).c_contiguous and flags.aligned and value.dtype.isnative
    ):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{where}: `{name}` is no array of numbers: {error}") from None
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"{where}: `{name}` has dtype {array.dtype} (shape {array.shape}); expected float32 "
                f"or float64. Use {name}.astype(np.float32)"
            )
        value = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    if like is not None and value.dtype != like.dtype:
        raise TypeError(
            f"{where}: `{name}` has dtype {value.dtype} (shape {value.shape}) but the first array "
            f"has {like.dtype} (shape {like.shape}); expected the same. "
            f"Use {name}.astype(np.{like.dtype})"
        )
    return value


def _of_shape(value: Any, shape: tuple[int, ...], where: str, name: str, like: Array,
              because: str) -> Array:
    array = _array(value, where, name, like)
    if array.shape != shape:
        raise ValueError(f"{where}: `{name}` has shape {array.shape}; expected {shape}, {because}")
    return array


def _empty(shape: tuple[int, ...], dtype: Any, where: str) -> Array:
    """A new array, or MemoryError if this machine cannot hold it (Linux would say yes, and kill)."""
    size = np.dtype(dtype).itemsize
    for length in shape:
        size *= length
    if size >= 2**30 and (memory := _memory()) is not None and size > memory:
        raise MemoryError(
            f"{where}: an output of shape {shape} takes {size / 2**30:.1f} GiB; this machine has "
            f"{memory / 2**30:.1f} GiB of memory left. Use a smaller batch"
        )
    return np.empty(shape, dtype)


def _memory() -> int | None:
    """Bytes that new arrays can fill, or None where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


_direct = False


def set_algorithm(name: str) -> None:
    """Choose how convolutions are computed, for the whole process.

    Parameters
    ----------
    name : {"auto", "direct"}
        "auto" takes Winograd's F(4x4, 3x3) where it is faster: for float32, 3x3 filters at stride 1
        and 16 channels or more. Its error stays within 1e-4 of the output's rms. "direct" sums
        products in their order, everywhere.
    """
    global _direct
    if name not in ("auto", "direct"):
        raise ValueError(f'set_algorithm: `name` is {name!r}; expected "auto" or "direct"')
    _direct = name == "direct"


class _Problem:
    """Geometries, and for each kernel module the plans that no call is using."""

    __slots__ = ("free", "geometry")

    def __init__(self, geometry: Any) -> None:
        self.geometry = geometry
        self.free: dict[tuple[ModuleType, bool], list[Any]] = {}

    def borrow(self, module: ModuleType) -> tuple[Any, list[Any]]:
        """A plan for one call, and the list to give it back to."""
        key = module, _direct
        try:
            free = self.free[key]
        except KeyError:
            free = self.free.setdefault(key, [])
        try:
            return free.pop(), free
        except IndexError:
            return self.new_plan(module), free

    def new_plan(self, module: ModuleType) -> Any:
        return module.Workspace()


class _ConvProblem(_Problem):
    __slots__ = ()

    def new_plan(self, module: ModuleType) -> Any:
        g = self.geometry
        return module.ConvPlan(g.x_shape, g.w_shape, g.y_shape, g.stride, g.dilation,
                               (g.pad_top, g.pad_left), g.groups, _direct)


class _ConvPoolProblem(_Problem):
    __slots__ = ("pool",)

    def __init__(self, geometry: Any, pool: Any) -> None:
        super().__init__(geometry)
        self.pool = pool

    def new_plan(self, module: ModuleType) -> Any:
        g, pool = self.geometry, self.pool
        return module.ConvPoolPlan(
            g.x_shape, g.w_shape, g.y_shape, pool.y_shape, g.stride, g.dilation,
            (g.pad_top, g.pad_left), g.groups, pool.window, pool.stride, pool.pads, _direct)


@lru_cache(maxsize=_PLANS, typed=True)
def _cached_conv(shapes: Any, types: Any, *arguments: Any) -> _Problem:
    return _ConvProblem(conv_geometry(*shapes, *arguments))


@lru_cache(maxsize=_PLANS, typed=True)
def _cached_conv_pool(
    shapes: Any, types: Any, stride: Any, padding: Any, dilation: Any, groups: Any, window: Any,
    pool_stride: Any, pool_padding: Any,
) -> _Problem:
    geometry = conv_geometry(*shapes, stride, padding, dilation, groups)
    return _ConvPoolProblem(geometry,
                            pool_geometry(geometry.y_shape, window, pool_stride, pool_padding))


@lru_cache(maxsize=_PLANS, typed=True)
def _cached_pool(x_shape: Any, types: Any, *arguments: Any) -> _Problem:
    return _Problem(pool_geometry(x_shape, *arguments))


_PLAIN = {int, str, type(None), bool}


def _frozen(value: Any) -> Any:
    """A hashable stand-in that differs where a type does: (1, 1) and (1.0, True) are equal."""
    if isinstance(value, (list, tuple)):
        return type(value), *map(_frozen, value)
    return type(value), value


def _problem(cached: Any, where: str, x_shape: Any, *arguments: Any) -> _Problem:
    """The problem of these arguments; errors get the operation's name in front."""
    try:
        if _PLAIN.issuperset(map(type, arguments)):
            return cached(x_shape, None, *arguments)
        try:
            return _lists_aside(cached, x_shape, arguments)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return cached.__wrapped__(x_shape, None, *arguments)
    except (TypeError, ValueError, MemoryError) as error:
        raise type(error)(f"{where}: {error}") from None


def _lists_aside(cached: Any, x_shape: Any, arguments: tuple[Any, ...]) -> _Problem:
    tuples = (_as_tuple(value) for value in arguments)
    return cached(x_shape, tuple(map(_frozen, arguments)), *tuples)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def _activation(activation: Any, where: str) -> bool:
    if activation is None:
        return False
    if activation == "relu":
        return True
    raise ValueError(f'{where}: `activation` is {activation!r}; expected None or "relu"')


def _wanted(need: Any, where: str) -> tuple[bool, bool, bool]:
    if not isinstance(need, (tuple, list, set, frozenset)) or any(
        name not in ("x", "w", "b") for name in need
    ):
        raise ValueError(f'{where}: `need` is {need!r}; expected some of ("x", "w", "b") in a tuple')
    return "x" in need, "w" in need, "b" in need


# -------------------------------------------------------------------------------------- convolution

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
    x = _array(x, "conv2d", "x")
    w = _array(w, "conv2d", "w", x)
    problem = _problem(_cached_conv, "conv2d", (x.shape, w.shape), stride, padding, dilation, groups)
    shape = problem.geometry.y_shape
    if b is not None:
        b = _of_shape(b, shape[3:], "conv2d", "b", x, f"one number for each of `w`'s {shape[3]} "
                      f"output channels (`w` of shape {w.shape})")
    relu = _activation(activation, "conv2d")
    count = _threads.resolve(num_threads)
    if out is None:
        out = _empty(shape, x.dtype, "conv2d")
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
    wanted = _wanted(need, where)
    x = _array(x, where, "x")
    w = _array(w, where, "w", x)
    problem = _problem(_cached_conv, where, (x.shape, w.shape), stride, padding, dilation, groups)
    shape = problem.geometry.y_shape
    dy = _of_shape(dy, shape, where, "dy", x, f"the output's for `x` of shape {x.shape} and `w` of "
                   f"shape {w.shape}")
    return _gradients(where, problem, dy, x, w, wanted, num_threads)


def _gradients(
    where: str, problem: _Problem, dy: Array, x: Array, w: Array, wanted: tuple[bool, bool, bool],
    num_threads: int | None,
) -> tuple[Array | None, Array | None, Array | None]:
    count = _threads.resolve(num_threads)
    module = _dispatch.active.modules[x.dtype.char]
    plan, free = problem.borrow(module)
    gradients = _new_gradients(where, x, w, wanted)
    if x.shape[0]:
        plan.backward(dy, x, w, *gradients, count)
    free.append(plan)
    return gradients


def _new_gradients(
    where: str, x: Array, w: Array, wanted: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """Arrays for dx, dw and db, or None; zeros where an empty batch leaves nothing to compute."""
    make = np.empty if x.shape[0] else np.zeros
    return (
        _empty(x.shape, x.dtype, where) if wanted[0] else None,
        make(w.shape, x.dtype) if wanted[1] else None,
        make(w.shape[3:], x.dtype) if wanted[2] else None,
    )


def conv2d_algorithm(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, direction: str = "y",
    dtype: Any = np.float32,
) -> str:
    """What computes a convolution: "winograd" or "direct".

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
    problem = _problem(_cached_conv, where, (tuple(x_shape), tuple(w_shape)), stride, padding,
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
    x = _array(x, where, "x")
    w = _array(w, where, "w", x)
    problem = _problem(_cached_conv_pool, where, (x.shape, w.shape), stride, padding, dilation,
                       groups, window, pool_stride, pool_padding)
    if b is not None:
        b = _of_shape(b, w.shape[3:], where, "b", x, f"one number for each of `w`'s {w.shape[3]} "
                      f"output channels (`w` of shape {w.shape})")
    relu = _activation(activation, where)
    count = _threads.resolve(num_threads)
    shape = problem.pool.y_shape  # type: ignore[attr-defined]
    y, indices = _empty(shape, x.dtype, where), _empty(shape, np.int32, where)
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
    wanted = _wanted(need, where)
    x = _array(x, where, "x")
    w = _array(w, where, "w", x)
    problem = _problem(_cached_conv_pool, where, (x.shape, w.shape), stride, padding, dilation,
                       groups, window, pool_stride, pool_padding)
    z_shape = problem.geometry.y_shape
    shape = problem.pool.y_shape  # type: ignore[attr-defined]
    dy = _of_shape(dy, shape, where, "dy", x, f"the output's for `x` of shape {x.shape} and `w` of "
                   f"shape {w.shape}")
    places = _indices(indices, dy, where)
    module = _dispatch.active.modules[x.dtype.char]
    _check_indices(module, places, -1, z_shape, where)
    count = _threads.resolve(num_threads)
    gradients = _new_gradients(where, x, w, wanted)
    plan, free = problem.borrow(module)
    if x.shape[0]:
        plan.backward(dy, places, x, w, *gradients, count)
    free.append(plan)
    return gradients


# ------------------------------------------------------------------------------------------ pooling

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
    x = _array(x, where, "x")
    ceil_mode = _flag(ceil_mode, where, "ceil_mode")
    return_indices = _flag(return_indices, where, "return_indices")
    problem = _problem(_cached_pool, where, x.shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    if geometry.x_shape[1] * geometry.x_shape[2] >= 2**31:
        raise ValueError(f"{where}: `x` of shape {x.shape} has more pixels than int32 can index")
    count = _threads.resolve(num_threads)
    y = _empty(geometry.y_shape, x.dtype, where)
    indices = _empty(geometry.y_shape, np.int32, where) if return_indices else None
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
    dy = _array(dy, where, "dy")
    x_shape = _shape4(x_shape, where)
    _batch_of(dy, x_shape, where)
    places = _indices(indices, dy, where)
    module = _dispatch.active.modules[dy.dtype.char]
    _check_indices(module, places, 0, x_shape, where)
    count = _threads.resolve(num_threads)
    dx = _empty(x_shape, dy.dtype, where)
    module.max_pool_backward(dy, places, dx, count)
    return dx


def _indices(indices: Any, dy: Array, where: str) -> NDArray[np.int32]:
    places = np.ascontiguousarray(indices)
    if places.dtype != np.int32 or places.shape != dy.shape:
        raise ValueError(
            f"{where}: `indices` has shape {places.shape} and dtype {places.dtype}; expected "
            f"{dy.shape}, like `dy`, and int32, as the forward pass returns them"
        )
    return places


def _check_indices(
    module: ModuleType, places: NDArray[np.int32], least: int, shape: tuple[int, ...], where: str
) -> None:
    if not module.indices_fit(places, least, shape[1] * shape[2]):
        raise ValueError(
            f"{where}: `indices` (shape {places.shape}) reach from {places.min()} to {places.max()}, "
            f"outside the {shape[1]}x{shape[2]} pixels of `x_shape` {shape}"
        )


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
    x = _array(x, where, "x")
    ceil_mode = _flag(ceil_mode, where, "ceil_mode")
    problem = _problem(_cached_pool, where, x.shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    include = _flag(count_include_pad, where, "count_include_pad")
    count = _threads.resolve(num_threads)
    y = _empty(geometry.y_shape, x.dtype, where)
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
    dy = _array(dy, where, "dy")
    ceil_mode = _flag(ceil_mode, where, "ceil_mode")
    x_shape = _shape4(x_shape, where)
    problem = _problem(_cached_pool, where, x_shape, window, stride, padding, dilation, ceil_mode)
    geometry = problem.geometry
    dy = _of_shape(dy, geometry.y_shape, where, "dy", dy, f"the output's for `x_shape` {x_shape}")
    include = _flag(count_include_pad, where, "count_include_pad")
    count = _threads.resolve(num_threads)
    dx = _empty(x_shape, dy.dtype, where)
    module = _dispatch.active.modules[dy.dtype.char]
    scratch, free = problem.borrow(module)
    module.average_pool_backward(dy, dx, geometry.window, geometry.stride, geometry.dilation,
                                 geometry.pads, include, scratch, count)
    free.append(scratch)
    return dx


def _flag(value: Any, where: str, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where}: `{name}` is {value!r}; expected True or False")
    return bool(value)


def _shape4(shape: Any, where: str) -> tuple[int, ...]:
    try:
        if len(shape) != 4:
            raise ValueError("it has the wrong length")
        return tuple(integer(size, "x_shape", least=0) for size in shape)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{where}: `x_shape` is {shape!r}; expected (N, H, W, C), 4 integers ({error})"
        ) from None


def _batch_of(dy: Array, x_shape: tuple[int, ...], where: str) -> None:
    if dy.ndim != 4 or (dy.shape[0], dy.shape[3]) != (x_shape[0], x_shape[3]):
        raise ValueError(
            f"{where}: `dy` has shape {dy.shape}; expected ({x_shape[0]}, OH, OW, {x_shape[3]}) for "
            f"`x_shape` {x_shape}"
        )


# --------------------------------------------------------------------------- dense and elementwise

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
        b = _of_shape(b, w.shape[1:], "dense", "b", x, f"one number for each of `w`'s {w.shape[1]} "
                      f"outputs (`w` of shape {w.shape})")
    relu = _activation(activation, "dense")
    count = _threads.resolve(num_threads)
    y = _empty((x.shape[0], w.shape[1]), x.dtype, "dense")
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
    dy = _of_shape(dy, (x.shape[0], w.shape[1]), where, "dy", x, f"the output's for `x` of shape "
                   f"{x.shape} and `w` of shape {w.shape}")
    wanted = _wanted(need, where)
    dx, dw, db = _gradients(where, problem, dy[:, None, None], x[:, None, None], w[None, None],
                            wanted, num_threads)
    return None if dx is None else dx[:, 0, 0], None if dw is None else dw[0, 0], db


def _dense_problem(x: Any, w: Any, where: str) -> tuple[Array, Array, _Problem]:
    x = _array(x, where, "x")
    w = _array(w, where, "w", x)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or 0 in w.shape:
        raise ValueError(
            f"{where}: `x` has shape {x.shape} and `w` {w.shape}; expected (N, C_in) and "
            "(C_in, C_out), C_in and C_out 1 or more. For images use x.reshape(len(x), -1)"
        )
    N, C_in = x.shape
    shapes = (N, 1, 1, C_in), (1, 1, *w.shape)
    problem = _problem(_cached_conv, where, shapes, 1, "valid", 1, 1)
    return x, w, problem


def relu(x: Array, *, num_threads: int | None = None) -> Array:
    """max(x, 0) of an array of any shape; NaN stays NaN."""
    x = _array(x, "relu", "x")
    count = _threads.resolve(num_threads)
    y = _empty(x.shape, x.dtype, "relu")
    _dispatch.active.modules[x.dtype.char].relu(x.reshape(-1), y.reshape(-1), count)
    return y


def relu_backward(dy: Array, y: Array, *, num_threads: int | None = None) -> Array:
    """Gradient of `relu` from its output `y`: dy where y > 0, else 0."""
    y = _array(y, "relu_backward", "y")
    dy = _of_shape(dy, y.shape, "relu_backward", "dy", y, "like `y`")
    count = _threads.resolve(num_threads)
    dx = _empty(y.shape, y.dtype, "relu_backward")
    _dispatch.active.modules[y.dtype.char].relu_backward(
        dy.reshape(-1), y.reshape(-1), dx.reshape(-1), count)
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
    x = _array(x, "softmax", "x")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"softmax: `x` has shape {x.shape}; expected (..., C) with C >= 1")
    count = _threads.resolve(num_threads)
    y = _empty(x.shape, x.dtype, "softmax")
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
    x = _array(logits, where, "logits")
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
    dx = _empty(x.shape, x.dtype, where)
    loss = _dispatch.active.modules[x.dtype.char].softmax_cross_entropy(
        x, places, rows, dx, np.empty(N), count)
    return loss, dx


# --------------------------------------------------------------------------------------- optimizers

def adam_step(
    param: Array, grad: Array, m: Array, v: Array, *, step: int, learning_rate: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
    num_threads: int | None = None,
) -> None:
    """One step of Adam on flat arrays, in place, as Kingma and Ba's section 2 orders it.

    m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
    param -= learning_rate sqrt(1 - beta_2^step) / (1 - beta_1^step) m / (sqrt(v) + epsilon)

    Parameters
    ----------
    param, m, v : ndarray of shape (n,)
        Updated; C-contiguous, of one dtype.
    grad : ndarray of shape (n,)
    step : int
        1 for the first step.

    References
    ----------
    .. [1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.
    """
    _check_flat("adam_step", param=param, grad=grad, m=m, v=v)
    try:
        step = integer(step, "step", least=1)
    except (TypeError, ValueError) as error:
        raise type(error)(f"adam_step: {error}") from None
    _check_numbers("adam_step", learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2,
                   epsilon=epsilon)
    rate = learning_rate * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
    _dispatch.active.modules[param.dtype.char].adam(
        param, grad, m, v, rate, beta_1, beta_2, epsilon, _threads.resolve(num_threads))


def sgd_step(
    param: Array, grad: Array, velocity: Array | None = None, *, learning_rate: float,
    momentum: float = 0.0, nesterov: bool = False, num_threads: int | None = None,
) -> None:
    """One step of gradient descent on flat arrays, in place.

    velocity = momentum velocity - learning_rate g;  param += velocity, or with `nesterov`
    param += momentum velocity - learning_rate g; without a `velocity`, param -= learning_rate g.

    Parameters
    ----------
    param, velocity : ndarray of shape (n,)
        Updated; C-contiguous, of one dtype. `velocity` is needed where momentum is not 0.
    grad : ndarray of shape (n,)
    """
    flat = {"param": param, "grad": grad}
    if velocity is not None:
        flat["velocity"] = velocity
    elif momentum:
        raise ValueError(f"sgd_step: `momentum` is {momentum}, which needs a `velocity` array")
    _check_flat("sgd_step", **flat)
    _check_numbers("sgd_step", learning_rate=learning_rate, momentum=momentum)
    _dispatch.active.modules[param.dtype.char].sgd(
        param, grad, velocity, learning_rate, momentum, nesterov, _threads.resolve(num_threads))


def _check_flat(where: str, **arrays: Array) -> None:
    first = arrays["param"]
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.char not in "fd":
            raise TypeError(f"{where}: `{name}` is {type(array).__name__} of dtype "
                            f"{getattr(array, 'dtype', None)}; expected float32 or float64")
        if array.ndim != 1 or array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"{where}: `{name}` has shape {array.shape} and dtype {array.dtype}; expected one "
                f"axis and the {first.dtype} of `param` (shape {first.shape})"
            )
        if not array.flags.c_contiguous:
            raise ValueError(f"{where}: `{name}` of shape {array.shape} has strides {array.strides}; "
                             "expected a contiguous array, such as np.ascontiguousarray makes")
        if name != "grad" and not array.flags.writeable:
            raise ValueError(f"{where}: `{name}` of shape {array.shape} is updated in place, but it "
                             "is read-only; pass a copy")


def _check_numbers(where: str, **numbers: Any) -> None:
    for name, number in numbers.items():
        if isinstance(number, (str, bytes)) or not hasattr(number, "__float__"):
            raise TypeError(f"{where}: `{name}` is {number!r}; expected a number")


def info() -> dict[str, Any]:
    """What runs: version, instruction set, kernels, threads, OpenMP, compiler.

    Returns
    -------
    dict
        "version", "isa", "available_isa", "threads", "cpus", "openmp", "compiler", "numpy".
    """
    return {
        "version": __version__,
        "isa": _dispatch.active.isa,
        "available_isa": _dispatch.available_kernels(),
        "threads": get_num_threads(),
        "cpus": _threads.available_cpus(),
        "openmp": _cpu.openmp_version(),
        "compiler": _cpu.compiler_version(),
        "numpy": np.__version__,
    }


