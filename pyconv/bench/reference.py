"""What a result must be: convolution and pooling as sums over taps, by NumPy in float64.

Independent of pyconv's kernels and geometry. To stay quick on large layers, it computes the first
and the last image of the batch, and of a large layer's filter gradient three taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .peer_protocol import LARGEST
from .problem import Problem
from .shapes import ConvShape, PoolShape, Shape

WINOGRAD_ERROR = 1e-4  # of the rms: the rule that Winograd has to keep
ROUNDING_ERROR = 1e-6  # of the rms: an average is a rounded quotient
EXACT_BELOW = 2**24  # integers up to here are exact in float32
ALL_TAPS_BELOW = 4e9  # flops

Expected = dict[str, tuple[Any, np.ndarray]]  # array -> (index, values there)


class WrongResultError(ValueError):
    """A kernel's result is not what it must be."""


def expected(problem: Problem) -> Expected:
    """For each array of the result: which of its items were computed, and their values."""
    shape, direction = problem.shape, problem.direction
    images = sorted({0, shape.x[0] - 1})
    if isinstance(shape, ConvShape):
        if direction == "forward":
            return {"y": (images, conv_forward(shape, problem.x[images], problem.w, problem.b))}
        if direction == "dx":
            return {"dx": (images, conv_dx(shape, problem.dy[images], problem.w))}
        return conv_dw(shape, problem.x, problem.dy)
    x = problem.x[images]
    if direction == "max_forward":
        y, indices = max_forward(shape, x)
        return {"y": (images, y), "indices": (images, indices)}
    if direction == "max_backward":
        return {"dx": (images, max_backward(shape, x, problem.dy[images]))}
    if direction == "avg_forward":
        return {"y": (images, avg_forward(shape, x))}
    return {"dx": (images, avg_backward(shape, problem.dy[images]))}


def tolerance(problem: Problem) -> float:
    """Largest error allowed, as a part of the expected values' rms; 0: each value exactly."""
    shape, direction = problem.shape, problem.direction
    if isinstance(shape, PoolShape):
        return ROUNDING_ERROR if direction.startswith("avg") else 0.0
    n, oh, ow, channels_out = shape.y
    kh, kw, fan, _ = shape.w
    terms = {"forward": kh * kw * fan, "dx": kh * kw * channels_out // shape.groups,
             "dw": n * oh * ow}[direction]
    exact = terms * LARGEST**2 < EXACT_BELOW and problem.algorithm != "winograd"
    return 0.0 if exact else WINOGRAD_ERROR


def check(result: dict[str, np.ndarray], want: Expected, allowed: float, what: str) -> float:
    """Compare a result with what was expected.

    Returns
    -------
    error : float
        Largest error as a part of the expected values' rms.

    Raises
    ------
    WrongResultError
        If an array is missing, has another shape, or is further off than `allowed`.
    """
    if result.keys() != want.keys():
        raise WrongResultError(f"{what}: got {sorted(result)}, expected {sorted(want)}")
    return max(compare(result[name][items], values, allowed, f"{what}: {name}")
               for name, (items, values) in want.items())


def compare(got: np.ndarray, want: np.ndarray, allowed: float, what: str) -> float:
    """As `check`, for one array."""
    if got.shape != want.shape:
        raise WrongResultError(f"{what} has shape {got.shape}, expected {want.shape}")
    difference = np.abs(got - want)
    rms = float(np.sqrt(np.mean(np.square(want, dtype=np.float64)))) or 1.0
    error = float(difference.max()) / rms
    if not error <= allowed:  # also when it is NaN
        at = tuple(int(i) for i in np.unravel_index(np.argmax(difference), want.shape))
        raise WrongResultError(f"{what} is wrong: at {at} it is {got[at]}, expected {want[at]} "
                               f"({error:.1e} of the rms; allowed: {allowed:.0e})")
    return error


def conv_forward(shape: ConvShape, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """y[n, oh, ow, o] = b[o] + sum over taps and i of x[n, h, w, i] * w[kh, kw, i, o]."""
    padded = _pad(shape, x)
    y = sum(_join(_by_group(padded[:, rows, columns], shape.groups)
                  @ _by_group(w[tap], shape.groups)) for tap, rows, columns in _taps(shape))
    return (y + b).reshape(len(x), *shape.y[1:])


def conv_dx(shape: ConvShape, dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Each dy[n, oh, ow] times the filter, added at the pixels that it came from."""
    padded = _pad(shape, np.zeros((len(dy), *shape.x[1:])))
    for tap, rows, columns in _taps(shape):
        part = padded[:, rows, columns]
        part += _join(_by_group(dy, shape.groups)
                      @ _by_group(w[tap], shape.groups).transpose(0, 2, 1)).reshape(part.shape)
    return _crop(shape, padded)


def conv_dw(shape: ConvShape, x: np.ndarray, dy: np.ndarray) -> Expected:
    """dw[kh, kw, i, o] = sum over pixels of x[n, h, w, i] * dy[n, oh, ow, o]; db sums dy."""
    taps = list(_taps(shape))
    if shape.flops > ALL_TAPS_BELOW:
        taps = [taps[0], taps[len(taps) // 2], taps[-1]]
    padded, rows_of_dy = _pad(shape, x), _by_group(dy, shape.groups)
    gradients = [_join(_by_group(padded[:, rows, columns], shape.groups).transpose(0, 2, 1)
                       @ rows_of_dy) for _, rows, columns in taps]
    kh, kw = np.array([tap for tap, _, _ in taps]).T
    everywhere = list(range(shape.channels_out))
    return {"dw": ((kh, kw), np.array(gradients)),
            "db": (everywhere, dy.sum((0, 1, 2), dtype=np.float64))}


def max_forward(shape: PoolShape, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each window, and its place h * W + w; of equal ones the first."""
    padded = _pad(shape, x, -np.inf)
    (top, bottom), (left, right) = shape.pads
    place = np.add.outer(np.arange(-top, shape.x[1] + bottom) * shape.x[2],
                         np.arange(-left, shape.x[2] + right))[None, :, :, None]
    y = np.full((len(x), *shape.y[1:]), -np.inf)
    indices = np.zeros(y.shape, np.int64)
    for _, rows, columns in _taps(shape):
        candidate = padded[:, rows, columns]
        indices = np.where(candidate > y, place[:, rows, columns], indices)
        y = np.maximum(y, candidate)
    return y, indices


def max_backward(shape: PoolShape, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Each dy goes to its window's winner."""
    _, indices = max_forward(shape, x)
    dx = np.zeros((len(x), shape.x[1] * shape.x[2], shape.x[3]))
    n, _, _, c = np.ogrid[tuple(map(slice, dy.shape))]
    np.add.at(dx, (n, indices, c), dy)
    return dx.reshape(x.shape)


def avg_forward(shape: PoolShape, x: np.ndarray) -> np.ndarray:
    """The mean of each window's elements inside the image."""
    padded = _pad(shape, x)
    return sum(padded[:, rows, columns] for _, rows, columns in _taps(shape)) / _counts(shape)


def avg_backward(shape: PoolShape, dy: np.ndarray) -> np.ndarray:
    """Each dy is shared out evenly over its window's elements inside the image."""
    padded = _pad(shape, np.zeros((len(dy), *shape.x[1:])))
    for _, rows, columns in _taps(shape):
        padded[:, rows, columns] += dy / _counts(shape)
    return _crop(shape, padded)


def _counts(shape: PoolShape) -> np.ndarray:
    """Elements inside the image of each window, (1, OH, OW, 1)."""
    inside = _pad(shape, np.ones((1, *shape.x[1:3], 1)))
    return np.sum([inside[:, rows, columns] for _, rows, columns in _taps(shape)], axis=0)


def _taps(shape: Shape) -> Iterator[tuple[tuple[int, int], slice, slice]]:
    """For each (kh, kw): the rows and columns of the padded image that it meets."""
    for tap in np.ndindex(*shape.window):
        starts = [k * dilation for k, dilation in zip(tap, shape.dilation, strict=True)]
        rows, columns = (slice(start, start + (size - 1) * stride + 1, stride) for
                         start, size, stride in zip(starts, shape.out, shape.stride, strict=True))
        yield tap, rows, columns


def _pad(shape: Shape, x: np.ndarray, value: float = 0.0) -> np.ndarray:
    return np.pad(x.astype(np.float64), ((0, 0), *shape.pads, (0, 0)), constant_values=value)


def _crop(shape: Shape, padded: np.ndarray) -> np.ndarray:
    (top, _), (left, _) = shape.pads
    return padded[:, top:top + shape.x[1], left:left + shape.x[2]]


def _by_group(a: np.ndarray, groups: int) -> np.ndarray:
    """(..., groups * C) -> (groups, the rest, C), float64."""
    channels = a.shape[-1] // groups
    return a.reshape(-1, groups, channels).transpose(1, 0, 2).astype(np.float64)


def _join(a: np.ndarray) -> np.ndarray:
    """(groups, M, C) -> (M, groups * C)."""
    return a.transpose(1, 0, 2).reshape(a.shape[1], -1)
