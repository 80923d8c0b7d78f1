"""The assignment *Convolutional Neural Networks: Application*: the ConvNet for the SIGNS data.

Names, order of steps, initial weights and printed costs are those of the assignment, which is
written for TensorFlow 1.2.1; TensorFlow's part is taken by `pyconv.zoo.signs_convnet`, in float32.
What the command line needs to run the same is here too: `assignment_weights`, `minibatch_order` and
`AssignmentCost`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import data, zoo
from ..callbacks import Callback, Logs
from ..geometry import integer
from ..model import Sequential
from ..optimizers import Adam
from . import philox

Float32 = NDArray[np.float32]
Parameters = dict[str, Float32]

NUM_CLASSES = 6
INPUT_SHAPE = (64, 64, 3)
PARAMETER_NAMES = ("W1", "W2", "W3", "b3")
INITIALIZER_SEED = 0
# The assignment gives the fully connected layer no seed, so TensorFlow 1.2.1 takes the number that
# the layer's initializer has in the graph. Later versions 1.x count to 39 there.
DENSE_SEED = 45
# model() sets its seed to 3 and raises it before every epoch.
FIRST_EPOCH_SEED = 4


def load_dataset(directory: str | os.PathLike[str] | None = None) -> tuple[NDArray[Any], ...]:
    """The SIGNS data: photographs of hands that show 0 to 5 fingers.

    Parameters
    ----------
    directory : path, optional
        A folder with the assignment's `train_signs.h5` and `test_signs.h5`. Without it, the folder
        `signs` in the folder named by the environment variable PYCONV_DATA; without that, the drawn
        hands of `pyconv.signs`.

    Returns
    -------
    X_train_orig : ndarray of shape (1080, 64, 64, 3), uint8
    Y_train_orig : ndarray of shape (1, 1080), int64
    X_test_orig : ndarray of shape (120, 64, 64, 3), uint8
    Y_test_orig : ndarray of shape (1, 120), int64
    classes : ndarray of shape (6,)

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, truncated or not of this layout; the message says which and how.
    """
    if directory is None and (root := os.environ.get("PYCONV_DATA")):
        directory = Path(root) / "signs"
    if directory is None:
        from .. import signs

        return signs.load()
    return data.read_signs(directory)


def convert_to_one_hot(Y: ArrayLike, C: int) -> NDArray[np.float64]:
    """One column for every label, with 1 in the label's row.

    Parameters
    ----------
    Y : array of m integers, of any shape
        Labels from 0 to C - 1; `load_dataset` gives (1, m).
    C : int
        Number of classes.

    Returns
    -------
    one_hot : ndarray of shape (C, m), float64
        Transpose it for `model`, whose labels are rows.

    Raises
    ------
    ValueError
        If a label is not one of 0 to C - 1.

    Examples
    --------
    >>> convert_to_one_hot([[0, 2]], 3)
    array([[1., 0.],
           [0., 0.],
           [0., 1.]])
    """
    labels = np.asarray(Y).reshape(-1)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"`Y` has dtype {labels.dtype}; labels must be integers")
    outside = labels[(labels < 0) | (labels >= C)]
    if outside.size:
        raise ValueError(
            f"`Y` holds the label {outside[0]}, but with C={C} labels go from 0 to {C - 1}"
        )
    return np.eye(C)[labels].T


def random_mini_batches(
    X: ArrayLike, Y: ArrayLike, mini_batch_size: int = 64, seed: int = 0
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Shuffle the examples and cut them into minibatches.

    Parameters
    ----------
    X : array of shape (m, ...)
    Y : array of shape (m, n_y)
    mini_batch_size : int, default 64
    seed : int, default 0
        Of `numpy.random.RandomState`, whose `permutation(m)` is the order. NumPy's global generator
        is left alone.

    Returns
    -------
    mini_batches : list of (mini_batch_X, mini_batch_Y)
        ceil(m / mini_batch_size) copies; the last one may be smaller.

    Raises
    ------
    ValueError
        If X and Y differ in length, or the minibatch size is not positive.

    Examples
    --------
    >>> [x.shape for x, y in random_mini_batches(np.zeros((5, 8, 8, 3)), np.zeros((5, 6)), 2)]
    [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)]
    """
    x, y = np.asarray(X), np.asarray(Y)
    size = integer(mini_batch_size, "mini_batch_size", least=1)
    _check_lengths(x, y, "X", "Y")
    order = _permutation(len(x), seed)
    return [
        (x[order[start : start + size]], y[order[start : start + size]])
        for start in range(0, len(order), size)
    ]


@dataclass(frozen=True)
class Placeholder:
    """The shape and dtype of what will be fed to the network; None stands for any length.

    TensorFlow's placeholder was a node of its graph. Without a graph, what remains of it is the
    promise about the array.
    """

    shape: tuple[int | None, ...]
    dtype: type[np.float32] = np.float32

    def feed(self, value: ArrayLike, name: str) -> Float32:
        """`value` as an array of this dtype; ValueError, with `name`, if its shape does not fit."""
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` has dtype {array.dtype}; it must hold real numbers")
        if array.ndim != len(self.shape) or any(
            wanted not in (None, got) for wanted, got in zip(self.shape, array.shape, strict=True)
        ):
            raise ValueError(f"`{name}` has shape {array.shape}, expected {self._shape()}")
        return array.astype(self.dtype, copy=False)

    def _shape(self) -> str:
        return f"({', '.join('?' if n is None else str(n) for n in self.shape)})"

    def __repr__(self) -> str:
        return f"Placeholder(shape={self._shape()}, dtype={np.dtype(self.dtype)})"


def create_placeholders(
    n_H0: int, n_W0: int, n_C0: int, n_y: int
) -> tuple[Placeholder, Placeholder]:
    """What the network is fed: any number of images, and as many rows of n_y labels.

    Parameters
    ----------
    n_H0, n_W0, n_C0 : int
        Height, width and channels of an image.
    n_y : int
        Number of classes.

    Returns
    -------
    X, Y : Placeholder
        Of shape (None, n_H0, n_W0, n_C0) and (None, n_y), dtype float32.

    Examples
    --------
    >>> create_placeholders(64, 64, 3, 6)[0]
    Placeholder(shape=(?, 64, 64, 3), dtype=float32)
    """
    return Placeholder((None, n_H0, n_W0, n_C0)), Placeholder((None, n_y))


def initialize_parameters() -> Parameters:
    """The two filter banks, with the values that TensorFlow 1 gives for the assignment's seeds.

    Returns
    -------
    parameters : dict
        "W1" of shape (4, 4, 3, 8) and "W2" of shape (2, 2, 8, 16), float32.
    """
    return {
        "W1": philox.glorot_uniform((4, 4, 3, 8), op_seed=INITIALIZER_SEED),
        "W2": philox.glorot_uniform((2, 2, 8, 16), op_seed=INITIALIZER_SEED),
    }


def forward_propagation(X: ArrayLike, parameters: Parameters) -> Float32:
    """CONV2D -> RELU -> MAXPOOL -> CONV2D -> RELU -> MAXPOOL -> FLATTEN -> FULLYCONNECTED.

    Parameters
    ----------
    X : array of shape (m, n_H0, n_W0, 3)
        The assignment's images are 64 x 64, their values divided by 255.
    parameters : dict
        "W1" and "W2". If "W3" and "b3" of the fully connected layer are missing, they are added,
        with the values that TensorFlow 1.2.1 creates by itself.

    Returns
    -------
    Z3 : ndarray of shape (m, 6), float32
        Logits: the cost applies the softmax.

    Raises
    ------
    ValueError
        If `X` is no batch of images, or a parameter is missing or has another shape.
    """
    x = _images(X)
    return _network(x.shape[1:], parameters).predict(x)


def compute_cost(Z3: ArrayLike, Y: ArrayLike) -> float:
    """Cross-entropy of the labels and the softmax of the logits, mean over the examples.

    Parameters
    ----------
    Z3 : array of shape (m, n_y)
        Logits.
    Y : array of shape (m, n_y)
        One-hot rows, or any other weights of the classes.

    Returns
    -------
    cost : float
        mean(-sum(Y * log_softmax(Z3))), in float64.

    Raises
    ------
    ValueError
        If the shapes differ, or there are no examples.

    Examples
    --------
    >>> round(compute_cost([[0.0, 0.0]], [[1, 0]]), 6)  # log 2
    0.693147
    """
    z, y = np.asarray(Z3, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    if z.ndim != 2 or z.size == 0 or z.shape != y.shape:
        raise ValueError(
            f"`Z3` has shape {z.shape} and `Y` {y.shape}; both must be (m, n_y) with at least one "
            "example: make Y of labels by convert_to_one_hot(labels, n_y).T"
        )
    shifted = z - z.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(y * log_softmax).sum(axis=1).mean())


def model(
    X_train: ArrayLike,
    Y_train: ArrayLike,
    X_test: ArrayLike,
    Y_test: ArrayLike,
    learning_rate: float = 0.009,
    num_epochs: int = 100,
    minibatch_size: int = 64,
    print_cost: bool = True,
) -> tuple[float, float, Parameters]:
    """Train the assignment's network with Adam and print costs and accuracies as it does.

    Parameters
    ----------
    X_train, X_test : array of shape (m, n_H0, n_W0, 3)
        Images, values divided by 255.
    Y_train, Y_test : array of shape (m, 6)
        One-hot rows.
    learning_rate : float, default 0.009
    num_epochs : int, default 100
    minibatch_size : int, default 64
    print_cost : bool, default True
        Print the cost every five epochs. The accuracies are printed in any case.

    Returns
    -------
    train_accuracy, test_accuracy : float
        Share of the examples that are classified correctly.
    parameters : dict
        The trained "W1", "W2", "W3" and "b3", float32.

    Raises
    ------
    ValueError
        If images and labels do not fit each other or the network.

    Notes
    -----
    Every run gives the same numbers: weights, order of the minibatches and arithmetic are fixed.
    Unlike the assignment's, this function draws no curve of the costs; `pyconv train` does.
    """
    x_train, x_test = _images(X_train, "X_train"), _images(X_test, "X_test")
    m, n_H0, n_W0, n_C0 = x_train.shape
    images, labels = create_placeholders(n_H0, n_W0, n_C0, NUM_CLASSES)
    images.feed(x_test, "X_test")
    y_train, y_test = labels.feed(Y_train, "Y_train"), labels.feed(Y_test, "Y_test")
    _check_lengths(x_train, y_train, "X_train", "Y_train")
    _check_lengths(x_test, y_test, "X_test", "Y_test")
    for x, name in ((x_train, "X_train"), (x_test, "X_test")):
        if len(x) == 0:
            raise ValueError(f"`{name}` has shape {x.shape}; it must hold at least one image")
    size = integer(minibatch_size, "minibatch_size", least=1)
    epochs = integer(num_epochs, "num_epochs", least=0)

    network = _network(x_train.shape[1:], initialize_parameters())
    network.compile(optimizer=Adam(learning_rate, epsilon=1e-8), loss="softmax_cross_entropy")
    network.fit(
        x_train,
        y_train,
        batch_size=size,
        epochs=epochs,
        shuffle=lambda epoch: minibatch_order(epoch, m),
        callbacks=[AssignmentCost(size, m, print_cost)],
        verbose=0,
    )
    train_accuracy = _accuracy(network, x_train, y_train)
    test_accuracy = _accuracy(network, x_test, y_test)
    print(f"Train Accuracy: {train_accuracy:f}")
    print(f"Test Accuracy: {test_accuracy:f}")
    return (
        train_accuracy,
        test_accuracy,
        dict(zip(PARAMETER_NAMES, network.get_weights(), strict=True)),
    )


def predict(X: ArrayLike, parameters: Parameters) -> NDArray[np.int64]:
    """The most probable class of every image.

    Parameters
    ----------
    X : array of shape (m, n_H0, n_W0, 3)
    parameters : dict
        What `model` returned.

    Returns
    -------
    classes : ndarray of shape (m,), int64
    """
    return forward_propagation(X, parameters).argmax(axis=1)


def assignment_weights() -> list[Float32]:
    """The initial weights of `zoo.signs_convnet()` in the assignment: W1, W2, W3 and b3."""
    return _network(INPUT_SHAPE, initialize_parameters()).get_weights()


def minibatch_order(epoch: int, m: int) -> NDArray[np.int64]:
    """The order in which `model` takes its `m` examples in epoch `epoch`, counted from 0."""
    return _permutation(m, FIRST_EPOCH_SEED + epoch)


class AssignmentCost(Callback):
    """The cost of an epoch as the assignment computes and prints it.

    Parameters
    ----------
    minibatch_size : int
    m : int
        Number of training examples.
    print_cost : bool, default True
        Print it after epoch 0, 5, 10, ...

    Attributes
    ----------
    costs : list of float
        One an epoch: the sum of the minibatches' mean costs divided by ``int(m / minibatch_size)``.
        If the last minibatch is smaller, the divisor leaves it out but the sum does not.
    """

    def __init__(self, minibatch_size: int, m: int, print_cost: bool = True) -> None:
        self.minibatch_size = minibatch_size
        self.m = m
        self.print_cost = print_cost
        self.costs: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self.costs.append(0.0)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        self.costs[-1] += logs["loss"] / max(1, self.m // self.minibatch_size)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.print_cost and epoch % 5 == 0:
            print(f"Cost after epoch {epoch}: {self.costs[-1]:f}")


def _network(input_shape: tuple[int, int, int], parameters: Parameters) -> Sequential:
    """The network with `parameters`, to which those of its last layer are added if missing."""
    missing = [name for name in ("W1", "W2") if name not in parameters]
    if missing:
        raise ValueError(
            f"`parameters` lacks {', '.join(missing)}; start from initialize_parameters()"
        )
    network = zoo.signs_convnet(num_classes=NUM_CLASSES, input_shape=input_shape)
    *_, dense_weights, dense_biases = network.get_weights()
    if "W3" not in parameters:
        parameters["W3"] = philox.glorot_uniform(dense_weights.shape, op_seed=DENSE_SEED)
    if "b3" not in parameters:
        parameters["b3"] = np.zeros_like(dense_biases)
    network.set_weights([parameters[name] for name in PARAMETER_NAMES])
    return network


def _images(value: ArrayLike, name: str = "X") -> Float32:
    """`value` as a batch of images with three channels, of any height and width."""
    return Placeholder((None, None, None, INPUT_SHAPE[2])).feed(value, name)


def _accuracy(network: Sequential, x: Float32, y: Float32) -> float:
    return float(np.mean(network.predict(x).argmax(axis=1) == y.argmax(axis=1)))


def _permutation(m: int, seed: int) -> NDArray[np.int64]:
    return np.random.RandomState(seed).permutation(m)


def _check_lengths(x: NDArray[Any], y: NDArray[Any], x_name: str, y_name: str) -> None:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"`{x_name}` has shape {x.shape} and `{y_name}` {y.shape}; they must hold the same "
            "number of examples along the first axis (labels are rows: convert_to_one_hot(Y, C).T)"
        )
