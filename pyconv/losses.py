"""What a network is trained for: the loss, and what it is compared with.

A loss checks labels once, says what the mean over a batch and its gradient by the network's output are,
and how an output is read: as probabilities, as classes, as right or wrong answers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import functional
from ._arguments import Configurable, choose, real
from .functional.losses import class_factors, labels_fit

Array = NDArray[Any]
Shape = tuple[int, ...]


class Loss(Configurable):
    """Base of the losses.

    Attributes
    ----------
    name : str
        What `compile` calls it.
    applies : str or None
        The activation that is part of the loss, so that no network should end in it.
    metrics : tuple of str
        What else `fit` and `evaluate` can say.
    """

    name: str
    applies: str | None = None
    metrics: tuple[str, ...] = ("accuracy",)

    def __call__(
        self, y: Array, labels: Array, weights: Array | None = None
    ) -> tuple[float, Array]:
        """Mean loss of a batch of outputs `y`, weighted by example, and its gradient by `y`."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def labels(self, y: ArrayLike, num_examples: int, output_shape: Shape) -> Array:
        """`y` as the labels of `num_examples` outputs, one an example, or an error that says why not."""
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            raise TypeError(f"`y` has dtype {y.dtype}; expected numbers")
        shape = num_examples, *output_shape
        if output_shape == (1,) and y.shape == (num_examples,):
            return y.reshape(shape)
        if y.shape != shape:
            raise ValueError(
                f"`y` has shape {y.shape}; the loss {self.name!r} compares it with the network's "
                f"outputs, of shape {shape}"
            )
        return y

    def class_weights(self, labels: Array, class_weight: Any, output_shape: Shape) -> Array:
        """The weight of each example by `class_weight`."""
        raise ValueError(
            f"`class_weight` is for losses that tell classes, and {self.name!r} with outputs "
            f"of shape {output_shape} does not; give `sample_weight`"
        )

    def num_answers(self, labels: Array) -> int:
        """How many answers the accuracy is a share of."""
        return len(labels)

    def num_correct(self, y: Array, labels: Array) -> int:
        """How many of them are right."""
        raise NotImplementedError(f"{type(self).__name__} knows no right answers")

    def probabilities(self, y: Array) -> Array:
        """What outputs say about the probabilities of classes."""
        raise ValueError(f"the loss {self.name!r} gives outputs no meaning as probabilities")

    def classes(self, y: Array) -> NDArray[np.int64]:
        """The most probable classes."""
        raise ValueError(f"the loss {self.name!r} gives outputs no meaning as classes")


class SoftmaxCrossEntropy(Loss):
    """Of networks that tell classes, and end in one logit a class.

    Labels are class numbers (N,) or (N, 1), or rows (N, C): one-hot, or probabilities.

    Parameters
    ----------
    label_smoothing : float in [0, 1), default 0.0
        Labels become ``(1 - label_smoothing) * labels + label_smoothing / C``.

    Examples
    --------
    >>> loss = SoftmaxCrossEntropy(label_smoothing=0.1)
    >>> round(loss(np.zeros((1, 4)), np.array([2]))[0], 6)
    1.386294
    """

    name = "softmax_cross_entropy"
    applies = "softmax"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = real(label_smoothing, "label_smoothing", below=1.0)

    def __call__(
        self, y: Array, labels: Array, weights: Array | None = None
    ) -> tuple[float, Array]:
        """See :func:`pyconv.softmax_cross_entropy`."""
        return functional.softmax_cross_entropy(
            y, labels, label_smoothing=self.label_smoothing, sample_weight=weights)

    def labels(self, y: ArrayLike, num_examples: int, output_shape: Shape) -> Array:
        """Class numbers (N,), or rows of probabilities (N, C)."""
        if len(output_shape) != 1:
            raise ValueError(
                f"the network's output has shape {output_shape}, but the loss takes one row "
                "of logits an example; let it end in Flatten() or GlobalAveragePooling2D(), Dense"
            )
        rows = np.asarray(y)
        if rows.dtype.kind == "f" and rows.shape == (num_examples, *output_shape):
            # A row of C numbers adds up to 1 but for a rounding of each.
            off = abs(rows.sum(axis=1, dtype=float) - 1)
            if (
                ((rows != 0) & (rows != 1)).any()  # one-hot rows become class numbers
                and (rows >= 0).all()
                and (off <= rows.shape[1] * np.finfo(rows.dtype).eps).all()
            ):
                return rows
        return class_indices(y, num_examples, *output_shape)

    def class_weights(self, labels: Array, class_weight: Any, output_shape: Shape) -> Array:
        """The weight of each example's class; of rows, of the most probable one."""
        return class_factors(class_weight, output_shape[0])[_best(labels)]

    def num_correct(self, y: Array, labels: Array) -> int:
        """How many rows of `y` have their maximum at the label."""
        return int(np.count_nonzero(y.argmax(axis=1) == _best(labels)))

    def probabilities(self, y: Array) -> Array:
        """Softmax."""
        return functional.softmax(y)

    def classes(self, y: Array) -> NDArray[np.int64]:
        """The place of the largest logit."""
        return y.argmax(axis=-1)


class BinaryCrossEntropy(Loss):
    """Of networks whose every output is the logit of a yes: one an example, several, or an image.

    Labels are numbers from 0 to 1 of the outputs' shape; for one output an example also (N,).

    Parameters
    ----------
    label_smoothing : float in [0, 1), default 0.0
        Labels become ``(1 - label_smoothing) * labels + label_smoothing / 2``.
    """

    name = "binary_cross_entropy"
    applies = "sigmoid"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = real(label_smoothing, "label_smoothing", below=1.0)

    def __call__(
        self, y: Array, labels: Array, weights: Array | None = None
    ) -> tuple[float, Array]:
        """See :func:`pyconv.binary_cross_entropy`."""
        return functional.binary_cross_entropy(
            y, labels, label_smoothing=self.label_smoothing, sample_weight=weights)

    def labels(self, y: ArrayLike, num_examples: int, output_shape: Shape) -> Array:
        """Numbers from 0 to 1, of the outputs' shape."""
        labels = super().labels(y, num_examples, output_shape)
        if labels.size and not (0 <= labels.min() and labels.max() <= 1):  # also false for NaN
            raise ValueError(
                f"`y` reaches from {labels.min()} to {labels.max()}; the loss {self.name!r} takes "
                "numbers from 0 to 1"
            )
        return labels

    def class_weights(self, labels: Array, class_weight: Any, output_shape: Shape) -> Array:
        """The weight of class 0 or 1 of each example, where there is one output."""
        if math.prod(output_shape) != 1:
            return super().class_weights(labels, class_weight, output_shape)
        return class_factors(class_weight, 2)[(labels.reshape(-1) > 0.5).astype(int)]

    def num_answers(self, labels: Array) -> int:
        """One an output."""
        return labels.size

    def num_correct(self, y: Array, labels: Array) -> int:
        """How many outputs are above 0 where the label is above 0.5, and not elsewhere."""
        return int(np.count_nonzero((y > 0) == (labels > 0.5)))

    def probabilities(self, y: Array) -> Array:
        """Sigmoid."""
        return functional.sigmoid(y)

    def classes(self, y: Array) -> NDArray[np.int64]:
        """1 where an output is above 0, else 0."""
        return (y > 0).astype(np.int64)


class MeanSquaredError(Loss):
    """Of networks whose outputs are numbers to be near the labels, which have the outputs' shape."""

    name = "mean_squared_error"
    metrics = ()

    def __call__(
        self, y: Array, labels: Array, weights: Array | None = None
    ) -> tuple[float, Array]:
        """See :func:`pyconv.mean_squared_error`."""
        return functional.mean_squared_error(y, labels, sample_weight=weights)


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError)
}


def _best(labels: Array) -> Array:
    """Class numbers (N,), of rows those of the most probable class."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def get(loss: str | Loss) -> Loss:
    """A loss, or a new one by its name."""
    return loss if isinstance(loss, Loss) else LOSSES[choose(loss, "loss", LOSSES)]()


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
    if y.dtype.kind != "f" and labels_fit(labels := y.astype(np.int64), num_classes):
        return labels
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
