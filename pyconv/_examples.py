"""Examples to train on or to evaluate with: their checks, their order, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _dispatch
from ._arguments import real

Array = NDArray[Any]
Shape = tuple[int, ...]
Shuffle = bool | Callable[[int], ArrayLike]


class Examples(NamedTuple):
    """Inputs (N, ...), their labels (N, ...), and perhaps the weight of each in the loss (N,)."""

    x: Array
    labels: Array
    weights: Array | None

    def part(self, rows: Any) -> Examples:
        """Those of `rows`, a slice or an array of indices."""
        weights = None if self.weights is None else self.weights[rows]
        return Examples(self.x[rows], self.labels[rows], weights)


def numbers(x: ArrayLike, where: str) -> Array:
    """`x` as an array of numbers of any type."""
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{where}`x` has dtype {x.dtype}; expected numbers")
    return x


def inputs(x: Array, input_shape: Shape, where: str) -> Array:
    """`x` if it is a batch of examples of `input_shape`."""
    if x.shape[1:] == input_shape and x.ndim:
        return x
    remedy = ""
    if x.shape == input_shape:
        remedy = "; make one example a batch by x[None]"
    elif x.ndim == 4 and (*x.shape[2:], x.shape[1]) == input_shape:
        remedy = "; it seems to be NCHW, use np.moveaxis(x, 1, -1)"
    expected = ", ".join(map(str, ("N", *input_shape)))
    raise ValueError(f"{where}`x` has shape {x.shape}; expected ({expected}){remedy}")


def order(shuffle: Shuffle, epoch: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The order in which an epoch sees n examples."""
    if not callable(shuffle):
        return rng.permutation(n) if shuffle else np.arange(n)
    rows = np.asarray(shuffle(epoch))
    if rows.shape != (n,) or not np.array_equal(np.sort(rows), np.arange(n)):
        raise ValueError(
            f"`shuffle` gave for epoch {epoch} an array of shape {rows.shape} and dtype "
            f"{rows.dtype}, which is no permutation of range({n})"
        )
    return rows.astype(np.int64, copy=False)


def minibatch(x: Array, rows: NDArray[np.int64], out: Array, num_threads: int) -> Array:
    """The examples `rows`, known to be right, of C-contiguous `x`: in the first ones of `out`."""
    out = out[: len(rows)]
    _dispatch.active.modules["f"].take_rows(_bytes(x), rows, _bytes(out), num_threads)
    return out


def _bytes(x: Array) -> NDArray[np.uint8]:
    return x.reshape(len(x), -1).view(np.uint8)


def split(examples: Examples, share: float) -> tuple[Examples, Examples | None]:
    """Those to train on, and the last ones to validate with, if `share` is above 0."""
    share = real(share, "validation_split", below=1.0)
    if not share:
        return examples, None
    total = len(examples.x)
    n = int(total * (1 - share))
    if not 0 < n < total:
        raise ValueError(
            f"`validation_split` is {share}, which leaves {n} of {total} examples to train on "
            f"and {total - n} to validate with; both need some"
        )
    return examples.part(slice(n)), examples.part(slice(n, None))
