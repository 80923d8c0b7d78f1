"""Checks of arguments: arrays as the kernels take them, and errors that say what to do."""

import math
import os
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._blocks import block
from ..geometry import integer

Array = NDArray[Any]
# Bytes; larger outputs start at a cache line, which NumPy's own do not: a vector of 64 bytes that
# crosses lines takes two stores. On 25 MB that is a tenth of the time of a 1x1 convolution.
# And their memory is that of outputs which are gone.
_LARGE = 262_144


def as_real(value: Any, where: str, name: str, like: Array | None = None) -> Array:
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
        if not array.flags.c_contiguous:
            demand_memory(array.shape, array.dtype, f"{where}: a contiguous copy of `{name}`")
        value = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    if like is not None and value.dtype != like.dtype:
        raise TypeError(
            f"{where}: `{name}` has dtype {value.dtype} (shape {value.shape}) but the first array "
            f"has {like.dtype} (shape {like.shape}); expected the same. "
            f"Use {name}.astype(np.{like.dtype})"
        )
    return value


def of_shape(value: Any, shape: tuple[int, ...], where: str, name: str, like: Array,
              because: str) -> Array:
    array = as_real(value, where, name, like)
    if array.shape != shape:
        raise ValueError(f"{where}: `{name}` has shape {array.shape}; expected {shape}, {because}")
    return array


def empty(shape: tuple[int, ...], dtype: Any, where: str) -> Array:
    """A new array, or MemoryError if this machine cannot hold it (Linux would say yes, and kill)."""
    size = demand_memory(shape, dtype, f"{where}: an output")
    if size < _LARGE:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, block(size))


def demand_memory(shape: tuple[int, ...], dtype: Any, what: str) -> int:
    """The bytes of an array, or MemoryError if this machine cannot hold it."""
    size = np.dtype(dtype).itemsize
    for length in shape:
        size *= length
    if size >= 2**30 and (left := _memory()) is not None and size > left:
        raise MemoryError(
            f"{what} of shape {shape} takes {size / 2**30:.1f} GiB; this machine has "
            f"{left / 2**30:.1f} GiB of memory left. Use a smaller batch"
        )
    return size


def demand_int32(shape: tuple[int, ...], where: str, what: str) -> None:
    if shape[1] * shape[2] >= 2**31:
        raise ValueError(f"{where}: {what} of shape {shape} has more pixels than int32 can index")


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


def activation_is_relu(activation: Any, where: str) -> bool:
    if activation is None:
        return False
    if activation == "relu":
        return True
    raise ValueError(f'{where}: `activation` is {activation!r}; expected None or "relu"')


def wanted_ones(need: Any, where: str) -> tuple[bool, bool, bool]:
    if not isinstance(need, (tuple, list, set, frozenset)) or any(
        name not in ("x", "w", "b") for name in need
    ):
        raise ValueError(f'{where}: `need` is {need!r}; expected some of ("x", "w", "b") in a tuple')
    return "x" in need, "w" in need, "b" in need


def flag(value: Any, where: str, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where}: `{name}` is {value!r}; expected True or False")
    return bool(value)


def finite(value: Any, where: str, name: str, below: float = math.inf) -> float:
    """`value` as a float with 0 <= value < `below`."""
    expected = f"expected a number in [0, {below:g})"
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{where}: `{name}` is {value!r} ({type(value).__name__}); {expected}")
    if not 0 <= float(value) < below:
        raise ValueError(f"{where}: `{name}` is {value!r}; {expected}")
    return float(value)


def shape_of_images(shape: Any, where: str) -> tuple[int, ...]:
    try:
        if len(shape) != 4:
            raise ValueError("it has the wrong length")
        return tuple(integer(size, "x_shape", least=0) for size in shape)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{where}: `x_shape` is {shape!r}; expected (N, H, W, C), 4 integers ({error})"
        ) from None


def batch_of(dy: Array, x_shape: tuple[int, ...], where: str) -> None:
    if dy.ndim != 4 or (dy.shape[0], dy.shape[3]) != (x_shape[0], x_shape[3]):
        raise ValueError(
            f"{where}: `dy` has shape {dy.shape}; expected ({x_shape[0]}, OH, OW, {x_shape[3]}) for "
            f"`x_shape` {x_shape}"
        )


def indices_like(indices: Any, dy: Array, where: str) -> NDArray[np.int32]:
    places = np.ascontiguousarray(indices)
    if places.dtype != np.int32 or places.shape != dy.shape:
        raise ValueError(
            f"{where}: `indices` has shape {places.shape} and dtype {places.dtype}; expected "
            f"{dy.shape}, like `dy`, and int32, as the forward pass returns them"
        )
    return places


def check_indices(
    module: ModuleType, places: NDArray[np.int32], least: int, shape: tuple[int, ...], where: str
) -> None:
    if not module.indices_fit(places, least, shape[1] * shape[2]):
        raise ValueError(
            f"{where}: `indices` (shape {places.shape}) reach from {places.min()} to {places.max()}, "
            f"outside the {shape[1]}x{shape[2]} pixels of `x_shape` {shape}"
        )
