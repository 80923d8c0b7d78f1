"""Sequential: a stack of layers with its training loop, prediction and file.

All trainable parameters lie in one flat buffer, `parameters`, and the gradients of the loss by them
in another, `gradients`; the layers hold views of both. So an optimizer updates everything in one
call, whatever the layers are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import fusion, losses, optimizers, serialization, summary
from ._arguments import choose, named_keywords, real
from .callbacks import Callback, History, Logs, progress
from .functional import get_num_threads, softmax
from .geometry import integer
from .layers import Layer, Shape
from .layers.base import checked_layers, names_of
from .optimizers import Optimizer
from .program import Programs

Array = NDArray[Any]
Shuffle = bool | Callable[[int], ArrayLike]

# Rows at a time where nothing is learned: enough to fill the threads, small enough for the caches.
INFERENCE_BATCH = 128


class Sequential:
    """A network of layers, each fed with the output of the one before.

    Parameters
    ----------
    layers : sequence of Layer
        New layers, which belong to this model from then on.
    input_shape : tuple of int, optional
        Shape of one example, (H, W, C) or (features,). Without it the first data decide.
    seed : int, optional
        Makes initial weights, order of the examples and dropout reproducible.
    dtype : {"float32", "float64"}
        Of parameters, activations and gradients; inputs of any other number type are converted
        batch by batch.
    fuse : bool, default True
        Compute neighbouring layers as one where that saves time: a convolution, its ReLU and the max
        pooling behind it; a batch normalization, the sum of a `Residual` and a ReLU. In prediction,
        batch normalizations become part of the weights before them. Results are the same up to
        rounding. `summary` shows what was fused.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (P,)
        All parameters in the order of the layers, w before b; gradients of the last training step.
    input_shape, output_shape : tuple of int
        Of one example, without the batch axis.
    rng : numpy.random.Generator
        Source of initial weights, shuffling and dropout, in the order in which they happen.
    optimizer : Optimizer
        Since `compile`.
    stop_training : bool
        Set by callbacks to end `fit`.
    metadata : dict
        Anything that JSON can say; saved with the model.

    Examples
    --------
    >>> from pyconv.layers import Conv2D, Dense, Flatten
    >>> model = Sequential([Conv2D(4, 3), Flatten(), Dense(2)], input_shape=(8, 8, 1), seed=0)
    >>> model.count_params()
    330
    """

    input_shape: Shape
    output_shape: Shape
    parameters: Array
    gradients: Array
    optimizer: Optimizer

    @named_keywords
    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        input_shape: Iterable[int] | None = None,
        seed: int | None = None,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        self.layers = checked_layers(layers)
        self.names = names_of(self.layers)
        self.seed = seed
        self.rng = _generator(seed)
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        self.dtype = np.dtype(choose(name, "dtype", ("float32", "float64")))
        self.fuse = bool(fuse)
        self.metadata: dict[str, Any] = {}
        self.stop_training = False
        self.built = self.compiled = False
        if input_shape is not None:
            self.build(input_shape)

    # Building

    def build(self, input_shape: Iterable[int]) -> None:
        """Make all parameters, for examples of `input_shape`; the constructor or the first data do.

        Raises
        ------
        ValueError
            If a layer cannot take what the one before gives; the message names the layer.
        """
        shape = tuple(integer(size, "input_shape", least=1) for size in input_shape)
        self.input_shape = shape
        self.rng = _generator(self.seed)
        shapes = []
        for name, layer in zip(self.names, self.layers, strict=True):
            try:
                shape = layer.build(shape, self.rng)
            except (TypeError, ValueError) as error:
                raise type(error)(f"layer {name}: {error}") from error
            shapes.append(shape)
        for layer, shape in zip(self.layers, shapes, strict=True):
            layer.output_shape = shape
        self.output_shape = shape
        self._flatten_parameters()
        self.built = True

    def _flatten_parameters(self) -> None:
        """Move all parameters into one buffer, the gradients into another."""
        arrays = [array.ravel() for layer in self.layers for array in layer.params.values()]
        self.parameters = np.concatenate([np.empty(0), *arrays]).astype(self.dtype)
        self.gradients = np.zeros_like(self.parameters)
        start = 0
        for layer in self.layers:
            params, grads = {}, {}
            for name, array in layer.params.items():
                part = slice(start, start + array.size)
                params[name] = self.parameters[part].reshape(array.shape)
                grads[name] = self.gradients[part].reshape(array.shape)
                start = part.stop
            state = {name: array.astype(self.dtype) for name, array in layer.state.items()}
            layer.bind(params, grads, state)
        self._spans: fusion.Spans = (
            fusion.fuse(self.layers) if self.fuse else [(layer, 1) for layer in self.layers])
        starts = accumulate((count for _, count in self._spans), initial=0)
        self._programs = Programs(
            [(step, " + ".join(self.names[start : start + count]))
             for start, (step, count) in zip(starts, self._spans, strict=False)], self.dtype)

    def _check_built(self) -> None:
        if not self.built:
            raise RuntimeError(
                "the model has no weights yet: give Sequential an input_shape, or feed it data"
            )

    @named_keywords
    def compile(
        self,
        optimizer: str | Optimizer = "adam",
        loss: str = "softmax_cross_entropy",
        metrics: Iterable[str] = ("accuracy",),
    ) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : Optimizer or {"sgd", "adam", "adamw", "rmsprop"}
        loss : {"softmax_cross_entropy"}
            The network ends in logits; its labels are class numbers or one-hot rows.
        metrics : iterable of {"accuracy"}
            What `fit` and `evaluate` give besides the loss.
        """
        if isinstance(metrics, str):
            raise TypeError(f"`metrics` is {metrics!r}; expected a list of names, as [{metrics!r}]")
        self.metrics = tuple(choose(metric, "metrics", ("accuracy",)) for metric in metrics)
        self.loss = choose(loss, "loss", losses.LOSSES)
        self.optimizer = optimizers.get(optimizer)
        self.compiled = True

    # One batch

    def forward(self, x: Array, training: bool = False) -> Array:
        """Outputs for a batch `x`; with `training` what `backward` needs is kept."""
        if not len(x):
            return np.empty((0, *self.output_shape), self.dtype)
        program, free = self._programs.borrow(x.shape, training)
        y = program.forward(x, get_num_threads()).copy()
        if training:
            self._running = program
        free.append(program)
        return y

    def profile(self, x: Array, rounds: int = 10) -> list[dict[str, Any]]:
        """Where the time of a training step on a batch `x` goes, the best of `rounds`.

        Returns
        -------
        list of dict
            "operation", the names of its layers; seconds "forward" and "backward".
        """
        program, free = self._programs.borrow(x.shape, training=True)
        times = program.times(x, get_num_threads(), rounds)
        free.append(program)
        return times

    def backward(self, dy: Array) -> None:
        """Fill `gradients` from the gradient `dy` by the outputs of the last training pass."""
        self._running.backward(dy, get_num_threads())

    def _step(self, x: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
        """One update by a minibatch; its mean loss and the logits before the update."""
        logits = self.forward(x, training=True)
        loss, dlogits = losses.LOSSES[self.loss](logits, labels)
        self.backward(dlogits)
        self.optimizer.apply(self.parameters, self.gradients)
        return loss, logits

    @named_keywords
    def train_on_batch(self, x: ArrayLike, y: ArrayLike) -> float:
        """One update by one minibatch; its mean loss before the update."""
        return self._step(*self._examples(x, y))[0]

    @named_keywords
    def predict_on_batch(self, x: ArrayLike) -> Array:
        """Raw outputs for the whole of `x` in one pass."""
        return self.forward(self._inputs(x))

    # Training

    @named_keywords
    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        validation_split: float = 0.0,
        callbacks: Iterable[Callback] = (),
        verbose: str | int = "auto",
        shuffle: Shuffle = True,
        initial_epoch: int = 0,
    ) -> History:
        """Train by minibatches.

        Parameters
        ----------
        x : array_like of shape (N, *input_shape)
            Numbers of any type; uint8 images are converted batch by batch.
        y : array_like
            Class numbers (N,) or (N, 1), or one-hot rows (N, C).
        batch_size : int, default 32
            The last minibatch of an epoch may be smaller.
        epochs : int, default 1
            Number of the last epoch + 1.
        validation_data : (x, y), optional
            Evaluated after each epoch, as "val_loss" and "val_accuracy".
        validation_split : float in [0, 1), default 0.0
            Share of the examples, the last ones, to validate with and not to train on.
        callbacks : iterable of Callback
        verbose : {"auto", 0, 1, 2}
            Nothing, a progress bar, or a line an epoch; "auto" is 1 on a terminal and in notebooks,
            else 2.
        shuffle : bool or callable, default True
            Draw a new order for each epoch; or a function ``epoch -> permutation of range(N)``.
        initial_epoch : int, default 0
            Number of the first epoch, to go on with a training.

        Returns
        -------
        history : History
            ``history.history`` maps "loss", "accuracy", ... to one value an epoch. Those of the
            training are means over the minibatches, each seen before its update.

        Raises
        ------
        RuntimeError
            Without `compile`.
        TypeError, ValueError
            If examples and labels do not fit each other or the network, or an argument is bad.
        """
        self._check_compiled()
        batch_size = integer(batch_size, "batch_size", least=1)
        epochs = integer(epochs, "epochs", least=0)
        initial_epoch = integer(initial_epoch, "initial_epoch", least=0)
        x, labels = self._examples(x, y)
        x, labels, validation = self._split(x, labels, validation_data, validation_split)
        x = np.ascontiguousarray(x)  # np.take would copy all of another layout for every minibatch

        history = History()
        hooks = [*_checked_callbacks(callbacks), *progress(verbose), history]
        for hook in hooks:
            hook.model = self
            hook.params = {
                "epochs": epochs,
                "steps": -(-len(x) // batch_size),
                "initial_epoch": initial_epoch,
            }
        self.stop_training = False
        logs: Logs = {}
        for hook in hooks:
            hook.on_train_begin({})
        for epoch in range(initial_epoch, epochs):
            for hook in hooks:
                hook.on_epoch_begin(epoch, {})
            logs = self._epoch(x, labels, self._order(shuffle, epoch, len(x)), batch_size, hooks)
            if validation:
                val_logs = self._evaluate(*validation, batch_size)
                logs |= {f"val_{name}": value for name, value in val_logs.items()}
            for hook in hooks:
                hook.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        for hook in hooks:
            hook.on_train_end(logs)
        return history

    def _epoch(
        self,
        x: Array,
        labels: NDArray[np.int64],
        order: NDArray[np.int64],
        batch_size: int,
        hooks: list[Callback],
    ) -> Logs:
        """One pass over the examples in `order`; means over what was seen of it."""
        buffer = np.empty((min(batch_size, len(x)), *self.input_shape), x.dtype)
        total_loss, correct, seen = 0.0, 0, 0
        for batch, start in enumerate(range(0, len(x), batch_size)):
            rows = order[start : start + batch_size]
            n = len(rows)
            # The rows are checked, and "clip" lets np.take write to `out` without a second copy.
            batch_x = np.take(x, rows, axis=0, out=buffer[:n], mode="clip")
            batch_labels = labels[rows]
            loss, logits = self._step(batch_x, batch_labels)
            hits = losses.num_correct(logits, batch_labels)
            total_loss, correct, seen = total_loss + loss * n, correct + hits, seen + n
            logs = self._logs(loss, hits / n)
            for hook in hooks:
                hook.on_batch_end(batch, logs)
            if self.stop_training:
                break
        return self._logs(total_loss / seen, correct / seen)

    def _logs(self, loss: float, accuracy: float) -> Logs:
        return {"loss": loss, "accuracy": accuracy} if self.metrics else {"loss": loss}

    def _order(self, shuffle: Shuffle, epoch: int, n: int) -> NDArray[np.int64]:
        if not callable(shuffle):
            return self.rng.permutation(n) if shuffle else np.arange(n)
        order = np.asarray(shuffle(epoch))
        if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError(
                f"`shuffle` gave for epoch {epoch} an array of shape {order.shape} and dtype "
                f"{order.dtype}, which is no permutation of range({n})"
            )
        return order.astype(np.int64, copy=False)

    def _split(
        self, x: Array, labels: Array, data: tuple[ArrayLike, ArrayLike] | None, share: float
    ) -> tuple[Array, Array, tuple[Array, Array] | None]:
        """Examples to train on, and those to validate with, if any."""
        share = real(share, "validation_split", below=1.0)
        if data is not None:
            if share:
                raise ValueError("give either `validation_data` or `validation_split`, not both")
            if not isinstance(data, tuple | list) or len(data) != 2:
                raise TypeError("`validation_data` must be a pair (x, y)")
            return x, labels, self._examples(*data, "validation_data: ")
        if not share:
            return x, labels, None
        n = int(len(x) * (1 - share))
        if not 0 < n < len(x):
            raise ValueError(
                f"`validation_split` is {share}, which leaves {n} of {len(x)} examples to train on "
                f"and {len(x) - n} to validate with; both need some"
            )
        return x[:n], labels[:n], (x[n:], labels[n:])

    # Evaluation and prediction

    @named_keywords
    def evaluate(
        self, x: ArrayLike, y: ArrayLike, *, batch_size: int = INFERENCE_BATCH
    ) -> tuple[float, ...]:
        """Mean loss and metrics over examples and labels as `fit` takes them: (loss, accuracy)."""
        self._check_compiled()
        batch_size = integer(batch_size, "batch_size", least=1)
        return tuple(self._evaluate(*self._examples(x, y), batch_size).values())

    def _evaluate(self, x: Array, labels: NDArray[np.int64], batch_size: int) -> Logs:
        total_loss, correct = 0.0, 0
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            logits, batch_labels = self.forward(x[rows]), labels[rows]
            total_loss += losses.LOSSES[self.loss](logits, batch_labels)[0] * len(logits)
            correct += losses.num_correct(logits, batch_labels)
        return self._logs(total_loss / len(x), correct / len(x))

    @named_keywords
    def predict(self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH) -> Array:
        """Raw outputs (logits) for each row of `x`, computed `batch_size` rows at a time.

        Several threads may predict with one model at once.
        """
        x, batch_size = self._inputs(x), integer(batch_size, "batch_size", least=1)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            y[rows] = self.forward(x[rows])
        return y

    @named_keywords
    def predict_proba(self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH) -> Array:
        """Probabilities of the classes (N, C): the softmax of `predict`."""
        return softmax(self.predict(x, batch_size=batch_size))

    @named_keywords
    def predict_classes(
        self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH
    ) -> NDArray[np.int64]:
        """The most probable class of each row (N,)."""
        return self.predict(x, batch_size=batch_size).argmax(axis=-1)

    # Checks of data

    def _check_compiled(self) -> None:
        if not self.compiled:
            raise RuntimeError("the model does not know how to train: call compile() first")

    def _inputs(self, x: ArrayLike, where: str = "") -> Array:
        """`x` as an array of examples of this model, which is built for it if need be."""
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{where}`x` has dtype {x.dtype}; expected numbers")
        if not self.built and x.ndim > 1:
            self.build(x.shape[1:])
        self._check_built()
        if x.shape[1:] == self.input_shape and x.ndim:
            return x
        remedy = ""
        if x.shape == self.input_shape:
            remedy = "; make one example a batch by x[None]"
        elif x.ndim == 4 and (*x.shape[2:], x.shape[1]) == self.input_shape:
            remedy = "; it seems to be NCHW, use np.moveaxis(x, 1, -1)"
        expected = ", ".join(map(str, ("N", *self.input_shape)))
        raise ValueError(f"{where}`x` has shape {x.shape}; expected ({expected}){remedy}")

    def _examples(
        self, x: ArrayLike, y: ArrayLike, where: str = ""
    ) -> tuple[Array, NDArray[np.int64]]:
        """Inputs and class numbers to train on or evaluate with, at least one."""
        self._check_compiled()
        x = self._inputs(x, where)
        if not len(x):
            raise ValueError(f"{where}`x` has shape {x.shape}: there are no examples")
        if len(self.output_shape) != 1:
            raise ValueError(
                f"the network's output has shape {self.output_shape}, but the loss takes one row "
                "of logits an example; let it end in Flatten() or GlobalAveragePooling2D(), Dense"
            )
        try:
            return x, losses.class_indices(y, len(x), *self.output_shape)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}{error}") from None

    # Weights, summary, file

    def count_params(self) -> int:
        """Number of trainable parameters."""
        self._check_built()
        return self.parameters.size

    def get_weights(self) -> list[Array]:
        """Copies of all weights in the order of the layers: w, b, or gamma, beta, moving mean, variance.
        """
        self._check_built()
        return [array.copy() for layer in self.layers for array in layer.weights.values()]

    @named_keywords
    def set_weights(self, weights: Iterable[ArrayLike]) -> None:
        """Replace all weights by arrays as `get_weights` gives them."""
        self._check_built()
        views = [array for layer in self.layers for array in layer.weights.values()]
        values = [np.asarray(array) for array in weights]
        shapes, given = [view.shape for view in views], [value.shape for value in values]
        if shapes != given:
            raise ValueError(f"`weights` have shapes {given}; this model's are {shapes}")
        for view, value in zip(views, values, strict=True):
            view[...] = value

    def summary(self) -> None:
        """Print a table of the layers, their output shapes and their numbers of parameters."""
        self._check_built()
        print(summary.table(self))

    @named_keywords
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to an HDF5 file: layers, weights, `metadata`, and what training needs.

        A model read by :func:`load_model` goes on training as this one would, bit for bit. The file
        is replaced in one step: a crash leaves the old one or the new one.

        Raises
        ------
        RuntimeError
            If the model has no weights yet.
        TypeError
            If a layer or the optimizer is not pyconv's own, or JSON cannot say `metadata`.
        """
        self._check_built()
        serialization.write(path, *serialization.pack(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied array by array, the layers' views would no longer lie in the flat buffers.
        return serialization.unpack, (type(self), *serialization.pack(self))


@named_keywords
def load_model(path: str | os.PathLike[str]) -> Sequential:
    """Read a model that :meth:`Sequential.save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no model file, is damaged, or was written by a newer version.
    """
    config, arrays = serialization.read(path)
    try:
        return serialization.unpack(Sequential, config, arrays)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the model in {os.fspath(path)} is damaged: {error}") from error


def _generator(seed: int | None) -> np.random.Generator:
    if not (seed is None or (isinstance(seed, int | np.integer) and seed >= 0)):
        raise ValueError(f"`seed` is {seed!r}; expected None or an integer >= 0")
    return np.random.default_rng(seed)


def _checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"`callbacks` holds {callback!r}; expected objects of class Callback")
    return callbacks
