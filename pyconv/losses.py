"""Losses and what they are compared with: labels, checked once, and the accuracy.

A loss is a function ``(logits, labels) -> (mean over the batch, its gradient by the logits)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .functional import softmax_cross_entropy

Loss = Callable[[NDArray[Any], NDArray[Any]], tuple[float, NDArray[Any]]]

LOSSES: dict[str, Loss] = {"softmax_cross_entropy": softmax_cross_entropy}


def class_indices(y: ArrayLike, num_examples: int, num_classes: int) -> NDArray[np.int64]:
    """Labels in any of their forms as class numbers.

    Parameters
    ----------
    y : array_like
        Class numbers of shape (N,) or (N, 1), or one-hot rows of shape (N, num_classes).
    num_examples : int
        N.
    num_classes : int
        Number of the network's outputs.

    Returns
    -------
    labels : ndarray of shape (N,), int64

    Raises
    ------
    TypeError
        If `y` does not hold numbers.
    ValueError
        If its shape is none of the above, a class number is fractional or not in
        [0, num_classes), or a row is not one-hot.

    Examples
    --------
    >>> class_indices([[0, 0, 1], [1, 0, 0]], 2, 3)
    array([2, 0])
    """
    y = np.asarray(y)
    if y.dtype.kind not in "biuf":
        raise TypeError(f"`y` has dtype {y.dtype}; expected class numbers or one-hot rows")
    if y.shape in [(num_examples,), (num_examples, 1)]:
        return _checked_indices(y.reshape(num_examples), num_classes)
    if y.shape == (num_examples, num_classes):
        return _checked_one_hot(y)
    transposed = y.ndim == 2 and y.shape[1] == num_examples
    raise ValueError(
        f"`y` has shape {y.shape}; for {num_examples} examples and a network of {num_classes} "
        f"outputs, labels are class numbers ({num_examples},) or one-hot rows "
        f"({num_examples}, {num_classes}){'. Give y.T' if transposed else ''}"
    )


def _checked_indices(y: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    if y.size and not (0 <= y.min() and y.max() < num_classes):  # also false for NaN
        raise ValueError(
            f"`y` holds labels from {y.min()} to {y.max()}; a network of {num_classes} outputs "
            f"takes 0 to {num_classes - 1}"
        )
    labels = y.astype(np.int64)
    if y.dtype.kind == "f" and (labels != y).any():
        raise ValueError(f"`y` holds {y[labels != y][0]}; class numbers must be whole")
    return labels


def _checked_one_hot(y: NDArray[Any]) -> NDArray[np.int64]:
    wrong = (np.count_nonzero(y == 1, axis=1) != 1) | (np.count_nonzero(y, axis=1) != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"row {row} of `y` is {y[row]}; a one-hot row holds a single 1, else 0")
    return y.argmax(axis=1).astype(np.int64, copy=False)


def num_correct(logits: NDArray[Any], labels: NDArray[np.int64]) -> int:
    """How many rows of `logits` (N, C) have their maximum at the label (N,)."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
