"""Losses of a batch with their gradients by the network's output, in one pass."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _dispatch, _threads
from ._arrays import Array, as_real, empty, finite, of_shape


def softmax_cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0, class_weight: Any = None,
    sample_weight: Any = None, num_threads: int | None = None,
) -> tuple[float, Array]:
    """Mean of -sum(labels log(softmax(logits))) over the rows, and its gradient.

    Parameters
    ----------
    logits : ndarray of shape (N, C), float32 or float64
    labels : ndarray of shape (N,) of integers in [0, C), or (N, C) of weights
        Integers, or rows such as one-hot ones or probabilities.
    label_smoothing : float in [0, 1), default 0.0
        Labels become (1 - label_smoothing) labels + label_smoothing / C.
    class_weight : dict of int to float or array_like of shape (C,), optional
        Factor of the rows of each class, 1 for a class that a dict does not name. The class of a row
        of `labels` is its first largest one.
    sample_weight : array_like of shape (N,), optional
        Factor of each row. The mean still divides by N.
    num_threads : int, optional

    Returns
    -------
    loss : float
        0.0 for N = 0.
    dlogits : ndarray of shape (N, C)
        weights (softmax(logits) sum(labels) - labels) / N.

    Raises
    ------
    TypeError, ValueError
        If `labels` is of neither form, an integer label is outside [0, C), or weights do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import softmax_cross_entropy
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(loss, 6), dlogits
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    where = "softmax_cross_entropy"
    x = as_real(logits, where, "logits")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{where}: `logits` has shape {x.shape}; expected (N, C) with C >= 1")
    N, C = x.shape
    labels = np.asarray(labels)
    places = rows = None
    if labels.shape == (N,) and labels.dtype.kind in "iu":
        places = np.ascontiguousarray(labels, np.int64)
        if not labels_fit(places, C):
            raise ValueError(
                f"{where}: `labels` (shape {labels.shape}) reach from {labels.min()} to "
                f"{labels.max()}; expected 0 to {C - 1} for `logits` of shape {x.shape}"
            )
    elif labels.shape == (N, C) and labels.dtype.kind in "iufb":
        rows = np.ascontiguousarray(labels, x.dtype)
    else:
        raise ValueError(
            f"{where}: `labels` has shape {labels.shape} and dtype {labels.dtype}; expected integers "
            f"of shape ({N},) or one-hot rows of shape ({N}, {C}) for `logits` of shape {x.shape}"
        )
    smoothing = finite(label_smoothing, where, "label_smoothing", below=1.0)
    weights = None if sample_weight is None else weights_of(sample_weight, N, f"{where}: ")
    if class_weight is not None:
        factors = class_factors(class_weight, C, f"{where}: ")
        factors = factors[places if rows is None else rows.argmax(1)]
        weights = factors if weights is None else weights * factors
    count = _threads.resolve(num_threads)
    dx = empty(x.shape, x.dtype, where)
    loss = _dispatch.active.modules[x.dtype.char].softmax_cross_entropy(
        x, places, rows, weights, smoothing, dx, np.empty(N), count)
    return loss, dx


def binary_cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0, sample_weight: Any = None,
    num_threads: int | None = None,
) -> tuple[float, Array]:
    """Mean of -labels log(p) - (1 - labels) log(1 - p) with p = sigmoid(logits), and its gradient.

    Parameters
    ----------
    logits : ndarray of shape (N, ...), float32 or float64
    labels : ndarray of shape of `logits`
        Numbers from 0 to 1, of any type.
    label_smoothing : float in [0, 1), default 0.0
        Labels become (1 - label_smoothing) labels + label_smoothing / 2.
    sample_weight : array_like of shape (N,), optional
        Factor of each example. The mean still divides by the number of elements.
    num_threads : int, optional

    Returns
    -------
    loss : float
        0.0 without elements.
    dlogits : ndarray, shape of `logits`
        weights (sigmoid(logits) - labels) / number of elements.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together.

    Notes
    -----
    Computed as max(z, 0) - z t + log(1 + exp(-abs(z))), which neither overflows nor cancels.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import binary_cross_entropy
    >>> loss, dlogits = binary_cross_entropy(np.zeros((1, 2)), np.array([[0, 1]]))
    >>> round(loss, 6), dlogits
    (0.693147, array([[ 0.25, -0.25]]))
    """
    where = "binary_cross_entropy"
    smoothing = finite(label_smoothing, where, "label_smoothing", below=1.0)
    return _elementwise(where, "logits", logits, "labels", labels, True, smoothing, sample_weight,
                        num_threads)


def mean_squared_error(
    y: Array, targets: Array, *, sample_weight: Any = None, num_threads: int | None = None
) -> tuple[float, Array]:
    """Mean of (y - targets)^2 over all elements, and its gradient.

    Parameters
    ----------
    y : ndarray of shape (N, ...), float32 or float64
    targets : ndarray of shape of `y`
        Numbers of any type.
    sample_weight : array_like of shape (N,), optional
        Factor of each example. The mean still divides by the number of elements.
    num_threads : int, optional

    Returns
    -------
    loss : float
        0.0 without elements.
    dy : ndarray, shape of `y`
        2 weights (y - targets) / number of elements.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import mean_squared_error
    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (2.0, array([[ 0., -2.]]))
    """
    return _elementwise("mean_squared_error", "y", y, "targets", targets, False, 0.0, sample_weight,
                        num_threads)


def _elementwise(
    where: str, name: str, output: Any, label_name: str, labels: Any, logistic: bool,
    smoothing: float, sample_weight: Any, num_threads: int | None,
) -> tuple[float, Array]:
    x = as_real(output, where, name)
    if x.ndim == 0:
        raise ValueError(f"{where}: `{name}` has shape (); expected (N, ...)")
    t = np.asarray(labels)
    if t.dtype.kind not in "biuf":
        raise TypeError(
            f"{where}: `{label_name}` has dtype {t.dtype} (shape {t.shape}); expected numbers"
        )
    t = of_shape(t.astype(x.dtype, copy=False), x.shape, where, label_name, x, f"like `{name}`")
    N = len(x)
    weights = None if sample_weight is None else weights_of(sample_weight, N, f"{where}: ")
    count = _threads.resolve(num_threads)
    dx = empty(x.shape, x.dtype, where)
    rows = N, x.size // max(1, N)
    loss = _dispatch.active.modules[x.dtype.char].elementwise_loss(
        x.reshape(rows), t.reshape(rows), weights, logistic, smoothing, dx.reshape(rows),
        np.empty(N), count)
    return loss, dx


def weights_of(value: Any, N: int, where: str = "") -> NDArray[np.float64]:
    """`sample_weight` as N numbers."""
    weights = np.asarray(value)
    if weights.dtype.kind not in "biuf" or weights.shape != (N,):
        raise ValueError(
            f"{where}`sample_weight` has shape {weights.shape} and dtype {weights.dtype}; expected "
            f"({N},), a number for each example"
        )
    return np.ascontiguousarray(weights, np.float64)


def labels_fit(labels: NDArray[np.int64], C: int) -> bool:
    """Whether all of them lie in 0 .. C - 1: a fifth of the time of NumPy's minimum and maximum."""
    return _dispatch.active.modules["f"].labels_fit(labels, C)


def class_factors(value: Any, C: int, where: str = "") -> NDArray[np.float64]:
    """`class_weight` as C numbers."""
    if isinstance(value, Mapping):
        factors = np.ones(C)
        for label, weight in value.items():
            if not isinstance(label, (int, np.integer)) or not 0 <= label < C:
                raise ValueError(
                    f"{where}`class_weight` names the class {label!r}; expected 0 to {C - 1}"
                )
            if not isinstance(weight, Real) or not float(weight) >= 0:
                raise ValueError(
                    f"{where}`class_weight` has {weight!r} for class {label}; expected 0 or more"
                )
            factors[label] = weight
        return factors
    factors = np.asarray(value)
    if factors.dtype.kind not in "biuf" or factors.shape != (C,):
        raise ValueError(
            f"{where}`class_weight` has shape {factors.shape} and dtype {factors.dtype}; expected "
            f"({C},), a number for each class, or a dict"
        )
    return factors.astype(np.float64)
