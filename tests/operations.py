"""Every operation as one row of a table, for tests of what holds for all of them.

`inputs` draws arguments for a row, `Operation.run` calls it, `digest` tells results apart bit by
bit. Run as a program it prints a line per operation and dtype: its name and the digest.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import pyconv
from pyconv import functional

N = "N"  # stands in a shape for the size of the batch


@dataclass(frozen=True)
class Operation:
    """`call` with the arrays of `shapes`, in that order."""

    name: str
    shapes: dict[str, tuple]
    call: Callable

    def run(self, *arrays, **options):
        """The results that are arrays or numbers, as a tuple of arrays."""
        results = self.call(*arrays, **options)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(np.asarray(result) for result in results)

    def __str__(self):
        return self.name


OPERATIONS = [
    Operation(
        "conv2d",
        {"x": (N, 9, 10, 5), "w": (3, 3, 5, 17), "b": (17,)},
        lambda x, w, b, **o: pyconv.conv2d(x, w, b, padding="same", activation="relu", **o),
    ),
    Operation(
        "conv2d_backward",
        {"dy": (N, 9, 10, 17), "x": (N, 9, 10, 5), "w": (3, 3, 5, 17)},
        lambda dy, x, w, **o: pyconv.conv2d_backward(dy, x, w, padding="same", **o),
    ),
    Operation(
        "conv2d of wide channels",
        {"x": (N, 7, 9, 33), "w": (3, 3, 33, 40), "b": (40,)},
        lambda x, w, b, **o: pyconv.conv2d(x, w, b, stride=2, padding=1, **o),
    ),
    Operation(
        "conv2d_backward of wide channels",
        {"dy": (N, 4, 5, 40), "x": (N, 7, 9, 33), "w": (3, 3, 33, 40)},
        lambda dy, x, w, **o: pyconv.conv2d_backward(dy, x, w, stride=2, padding=1, **o),
    ),
    Operation(
        "grouped conv2d",
        {"x": (N, 8, 9, 6), "w": (2, 3, 3, 8), "b": (8,)},
        lambda x, w, b, **o: pyconv.conv2d(x, w, b, groups=2, dilation=2, **o),
    ),
    Operation(
        "grouped conv2d_backward",
        {"dy": (N, 6, 5, 8), "x": (N, 8, 9, 6), "w": (2, 3, 3, 8)},
        lambda dy, x, w, **o: pyconv.conv2d_backward(dy, x, w, groups=2, dilation=2, **o),
    ),
    Operation(
        "depthwise conv2d",
        {"x": (N, 8, 9, 19), "w": (3, 3, 1, 19), "b": (19,)},
        lambda x, w, b, **o: pyconv.conv2d(x, w, b, groups=19, padding="same", **o),
    ),
    Operation(
        "depthwise conv2d_backward",
        {"dy": (N, 8, 9, 19), "x": (N, 8, 9, 19), "w": (3, 3, 1, 19)},
        lambda dy, x, w, **o: pyconv.conv2d_backward(dy, x, w, groups=19, padding="same", **o),
    ),
    Operation(
        "conv2d_transpose",
        {"x": (N, 5, 6, 7), "w": (4, 4, 19, 7), "b": (19,)},
        lambda x, w, b, **o: pyconv.conv2d_transpose(x, w, b, stride=2, padding="same", **o),
    ),
    Operation(
        "conv2d_transpose_backward",
        {"dy": (N, 10, 12, 19), "x": (N, 5, 6, 7), "w": (4, 4, 19, 7)},
        lambda dy, x, w, **o: pyconv.conv2d_transpose_backward(
            dy, x, w, stride=2, padding="same", **o
        ),
    ),
    Operation(
        "max_pool2d",
        {"x": (N, 6, 7, 19)},
        lambda x, **o: pyconv.max_pool2d(
            x, 3, stride=2, padding=1, ceil_mode=True, return_indices=True, **o
        ),
    ),
    Operation(
        "max_pool2d_backward",
        {"dy": (N, 3, 4, 19), "indices": (N, 3, 4, 19)},
        lambda dy, indices, **o: pyconv.max_pool2d_backward(
            dy, indices, (dy.shape[0], 6, 7, 19), **o
        ),
    ),
    Operation(
        "avg_pool2d",
        {"x": (N, 6, 7, 19)},
        lambda x, **o: pyconv.avg_pool2d(x, 3, stride=2, padding="same", **o),
    ),
    Operation(
        "avg_pool2d_backward",
        {"dy": (N, 3, 4, 19)},
        lambda dy, **o: pyconv.avg_pool2d_backward(
            dy, (dy.shape[0], 6, 7, 19), 3, stride=2, padding="same", **o
        ),
    ),
    Operation(
        "global_max_pool2d",
        {"x": (N, 6, 7, 19)},
        lambda x, **o: pyconv.global_max_pool2d(x, return_indices=True, **o),
    ),
    Operation(
        "global_max_pool2d_backward",
        {"dy": (N, 19), "indices": (N, 19)},
        lambda dy, indices, **o: pyconv.global_max_pool2d_backward(
            dy, indices, (dy.shape[0], 6, 7, 19), **o
        ),
    ),
    Operation("global_avg_pool2d", {"x": (N, 6, 7, 19)}, pyconv.global_avg_pool2d),
    Operation(
        "global_avg_pool2d_backward",
        {"dy": (N, 19)},
        lambda dy, **o: pyconv.global_avg_pool2d_backward(dy, (dy.shape[0], 6, 7, 19), **o),
    ),
    Operation(
        "batch_norm",
        {"x": (N, 9, 10, 17), "gamma": (17,), "beta": (17,), "residual": (N, 9, 10, 17)},
        lambda x, gamma, beta, residual, **o: pyconv.batch_norm(
            x, gamma, beta, residual=residual, activation="relu", **o
        ),
    ),
    Operation(
        "batch_norm of many pixels",
        {"x": (N, 40, 41, 6), "gamma": (6,), "beta": (6,)},
        lambda x, gamma, beta, **o: pyconv.batch_norm(x, gamma, beta, activation="relu", **o),
    ),
    Operation(
        "batch_norm with given statistics",
        {"x": (N, 9, 10, 17), "gamma": (17,), "beta": (17,), "mean": (17,), "var": (17,)},
        lambda x, gamma, beta, mean, var, **o: pyconv.batch_norm(
            x, gamma, beta, mean=mean, var=abs(var), **o
        ),
    ),
    Operation(
        "batch_norm_backward",
        {"dy": (N, 9, 10, 17), "x": (N, 9, 10, 17), "gamma": (17,), "beta": (17,), "mean": (17,),
         "var": (17,), "y": (N, 9, 10, 17)},
        lambda dy, x, gamma, beta, mean, var, y, **o: pyconv.batch_norm_backward(
            dy, x, gamma, beta, mean, abs(var), y=y, activation="relu",
            need=("x", "gamma", "beta", "residual"), **o
        ),
    ),
    Operation(
        "batch_norm_backward of many pixels",
        {"dy": (N, 40, 41, 6), "x": (N, 40, 41, 6), "gamma": (6,), "beta": (6,), "mean": (6,),
         "var": (6,)},
        lambda dy, x, gamma, beta, mean, var, **o: pyconv.batch_norm_backward(
            dy, x, gamma, beta, mean, abs(var), activation="relu", **o
        )[:3],
    ),
    Operation(
        "add",
        {"x": (N, 9, 10, 17), "r": (N, 9, 10, 17)},
        lambda x, r, **o: functional.add(x, r, activation="relu", **o),
    ),
    Operation(
        "dense",
        {"x": (N, 37), "w": (37, 19), "b": (19,)},
        lambda x, w, b, **o: pyconv.dense(x, w, b, activation="relu", **o),
    ),
    Operation(
        "dense_backward",
        {"dy": (N, 19), "x": (N, 37), "w": (37, 19)},
        pyconv.dense_backward,
    ),
    Operation("relu", {"x": (N, 6, 7, 5)}, pyconv.relu),
    Operation(
        "relu_backward", {"dy": (N, 6, 7, 5), "y": (N, 6, 7, 5)}, functional.relu_backward
    ),
    *(
        Operation(name, {"x": (N, 6, 7, 5)}, getattr(pyconv, name))
        for name in ("leaky_relu", "elu", "sigmoid", "tanh")
    ),
    *(
        Operation(name, {"dy": (N, 6, 7, 5), "y": (N, 6, 7, 5)}, getattr(pyconv, name))
        for name in ("leaky_relu_backward", "elu_backward", "sigmoid_backward", "tanh_backward")
    ),
    Operation(
        "dropout", {"x": (N, 6, 7, 5)}, lambda x, **o: pyconv.dropout(x, 0.3, seed=5, **o)
    ),
    Operation(
        "dropout_backward",
        {"dy": (N, 6, 7, 5)},
        lambda dy, **o: pyconv.dropout_backward(dy, 0.3, seed=5, **o),
    ),
    Operation("softmax", {"logits": (N, 19)}, pyconv.softmax),
    Operation("softmax_backward", {"dy": (N, 19), "y": (N, 19)}, pyconv.softmax_backward),
    Operation(
        "softmax_cross_entropy",
        {"logits": (N, 19), "labels": (N,)},
        pyconv.softmax_cross_entropy,
    ),
    Operation(
        "softmax_cross_entropy of one-hot labels",
        {"logits": (N, 19), "one_hot": (N, 19)},
        pyconv.softmax_cross_entropy,
    ),
    Operation(
        "softmax_cross_entropy, smoothed and weighted",
        {"logits": (N, 19), "labels": (N,), "sample_weight": (N,)},
        lambda logits, labels, weights, **o: pyconv.softmax_cross_entropy(
            logits, labels, label_smoothing=0.1, class_weight={3: 2.0}, sample_weight=weights, **o
        ),
    ),
    Operation(
        "binary_cross_entropy",
        {"logits": (N, 4, 5, 2), "labels like logits": (N, 4, 5, 2)},
        lambda logits, labels, **o: pyconv.binary_cross_entropy(
            logits, labels, label_smoothing=0.1, **o
        ),
    ),
    Operation(
        "mean_squared_error",
        {"y": (N, 4, 5, 2), "targets": (N, 4, 5, 2), "sample_weight": (N,)},
        lambda y, targets, weights, **o: pyconv.mean_squared_error(
            y, targets, sample_weight=weights, **o
        ),
    ),
]


def inputs(operation, batch, dtype, seed=0):
    """Arrays for `operation` with a batch of `batch`: normal numbers, indices, or labels."""
    rng = np.random.default_rng(seed)
    arrays = []
    for name, shape in operation.shapes.items():
        shape = tuple(batch if size == N else size for size in shape)
        if name == "indices":
            arrays.append(rng.integers(6 * 7, size=shape, dtype=np.int32))
        elif name == "labels":
            arrays.append(rng.integers(19, size=shape))
        elif name == "one_hot":
            arrays.append(np.eye(shape[1], dtype=dtype)[rng.integers(shape[1], size=batch)])
        else:
            arrays.append(rng.standard_normal(shape).astype(dtype))
    return arrays


def digest(arrays):
    """The SHA-256 of the arrays' bits, shapes and dtypes."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return state.hexdigest()


def digests(batch=5):
    """A line for every operation and dtype: name, dtype, digest of its results."""
    for operation in OPERATIONS:
        for dtype in (np.float32, np.float64):
            results = operation.run(*inputs(operation, batch, dtype))
            yield f"{operation} {dtype.__name__} {digest(results)}"


if __name__ == "__main__":
    print(*digests(), sep="\n")
