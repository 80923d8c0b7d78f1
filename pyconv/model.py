"""Sequential: a stack of layers with its training loop, prediction and file.

All trainable parameters lie in one flat buffer, `parameters`, and the gradients of the loss by them
in another, `gradients`; the layers hold views of both. So an optimizer updates everything in one
call, whatever the layers are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _examples, fusion, losses, optimizers, serialization, summary
from ._arguments import choose, named_keywords
from ._examples import Examples, Shuffle
from ._threads import resolve
from .callbacks import Callback, History, Logs, progress
from .functional import softmax
from .functional.losses import weights_of
from .geometry import integer
from .layers import Layer, Shape
from .layers.base import checked_layers, names_of
from .losses import Loss
from .optimizers import Optimizer
from .program import Programs

Array = NDArray[Any]

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
    optimizer, loss : Optimizer, Loss
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
    loss: Loss

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
        loss: str | Loss = "softmax_cross_entropy",
        metrics: Iterable[str] | None = None,
    ) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : Optimizer or {"sgd", "adam", "adamw", "rmsprop"}
        loss : Loss or {"softmax_cross_entropy", "binary_cross_entropy", "mean_squared_error"}
            A name, or an object of :mod:`pyconv.losses` such as
            ``SoftmaxCrossEntropy(label_smoothing=0.1)``. For cross-entropies the network ends in
            logits.
        metrics : iterable of {"accuracy"}, optional
            What `fit` and `evaluate` give besides the loss: by default the accuracy, where the loss
            knows right answers.

        Raises
        ------
        TypeError, ValueError
            For an unknown name, a metric that the loss does not have, or a network that ends in the
            softmax or sigmoid that the loss applies itself.
        """
        if isinstance(metrics, str):
            raise TypeError(f"`metrics` is {metrics!r}; expected a list of names, as [{metrics!r}]")
        loss = losses.get(loss)
        wanted = loss.metrics if metrics is None else metrics
        self.metrics = tuple(choose(metric, "metrics", loss.metrics) for metric in wanted)
        last = getattr(self.layers[-1], "activation", None)
        if last and last == loss.applies:
            raise ValueError(
                f"the network ends in {last!r}, which the loss {loss.name!r} applies itself: leave it "
                "out, so that the network ends in logits"
            )
        self.loss = loss
        self.optimizer = optimizers.get(optimizer)
        self.compiled = True

    # One batch

    def forward(self, x: Array, training: bool = False) -> Array:
        """Outputs for a batch `x`; with `training` what `backward` needs is kept."""
        if not len(x):
            return np.empty((0, *self.output_shape), self.dtype)
        program, free = self._programs.borrow(x.shape, training)
        y = program.forward(x, resolve(None)).copy()
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
        times = program.times(x, rounds)
        free.append(program)
        return times

    def backward(self, dy: Array) -> None:
        """Fill `gradients` from the gradient `dy` by the outputs of the last training pass."""
        self._running.backward(dy, resolve(None))

    def _step(
        self, x: Array, labels: Array, weights: Array | None = None
    ) -> tuple[float, Array]:
        """One update by a minibatch; its mean loss and the outputs before the update."""
        y = self.forward(x, training=True)
        loss, dy = self.loss(y, labels, weights)
        self.backward(dy)
        self.optimizer.apply(self.parameters, self.gradients)
        return loss, y

    @named_keywords
    def train_on_batch(
        self, x: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
    ) -> float:
        """One update by one minibatch, with arguments as for `fit`; its mean loss before the update."""
        return self._step(*self._examples(x, y, sample_weight, class_weight))[0]

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
        validation_data: tuple[ArrayLike, ...] | None = None,
        validation_split: float = 0.0,
        callbacks: Iterable[Callback] = (),
        verbose: str | int = "auto",
        shuffle: Shuffle = True,
        initial_epoch: int = 0,
        class_weight: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> History:
        """Train by minibatches.

        Parameters
        ----------
        x : array_like of shape (N, *input_shape)
            Numbers of any type; uint8 images are converted batch by batch.
        y : array_like
            Class numbers (N,) or (N, 1), or rows (N, C), one-hot or of probabilities; for other losses
            than the softmax cross-entropy, numbers of the outputs' shape.
        batch_size : int, default 32
            The last minibatch of an epoch may be smaller.
        epochs : int, default 1
            Number of the last epoch + 1.
        validation_data : (x, y) or (x, y, sample_weight), optional
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
        class_weight : dict of int to float or array_like of shape (C,), optional
            Factor of the loss of each class's examples, 1 for a class that a dict does not name.
        sample_weight : array_like of shape (N,), optional
            Factor of the loss of each example; times that of its class. Means divide by the number
            of examples all the same.

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
        examples = self._examples(x, y, sample_weight, class_weight)
        examples, validation = _examples.split(examples, validation_split)
        if validation_data is not None:
            if validation:
                raise ValueError("give either `validation_data` or `validation_split`, not both")
            if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
                raise TypeError("`validation_data` must be a pair (x, y), or (x, y, sample_weight)")
            other_x, other_y, *weights = validation_data
            validation = self._examples(
                other_x, other_y, weights[0] if weights else None, where="validation_data: ")
        # `minibatch` copies rows as they lie.
        examples = examples._replace(x=np.ascontiguousarray(examples.x))
        n = len(examples.x)

        history = History()
        hooks = [*_checked_callbacks(callbacks), *progress(verbose), history]
        for hook in hooks:
            hook.model = self
            hook.params = {
                "epochs": epochs,
                "steps": -(-n // batch_size),
                "initial_epoch": initial_epoch,
            }
        self.stop_training = False
        logs: Logs = {}
        for hook in hooks:
            hook.on_train_begin({})
        for epoch in range(initial_epoch, epochs):
            for hook in hooks:
                hook.on_epoch_begin(epoch, {})
            rows = _examples.order(shuffle, epoch, n, self.rng)
            logs = self._epoch(examples, rows, batch_size, hooks)
            if validation:
                val_logs = self._evaluate(validation, batch_size)
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
        examples: Examples,
        order: NDArray[np.int64],
        batch_size: int,
        hooks: list[Callback],
    ) -> Logs:
        """One pass over the examples in `order`; means over what was seen of it."""
        x, labels, weights = examples
        buffer = np.empty((min(batch_size, len(x)), *self.input_shape), x.dtype)
        total_loss, seen, correct, answers = 0.0, 0, 0, 0
        for batch, start in enumerate(range(0, len(x), batch_size)):
            rows = order[start : start + batch_size]
            n = len(rows)
            batch_x = _examples.minibatch(x, rows, buffer, resolve(None))
            batch_labels = labels[rows]
            loss, y = self._step(batch_x, batch_labels, None if weights is None else weights[rows])
            hits, asked = self._answers(y, batch_labels)
            total_loss, seen = total_loss + loss * n, seen + n
            correct, answers = correct + hits, answers + asked
            logs = self._logs(loss, hits, asked)
            for hook in hooks:
                hook.on_batch_end(batch, logs)
            if self.stop_training:
                break
        return self._logs(total_loss / seen, correct, answers)

    def _answers(self, y: Array, labels: Array) -> tuple[int, int]:
        """How many answers of the outputs `y` are right, of how many; (0, 0) if nobody asks."""
        if not self.metrics:
            return 0, 0
        return self.loss.num_correct(y, labels), self.loss.num_answers(labels)

    def _logs(self, loss: float, correct: int, answers: int) -> Logs:
        return {"loss": loss, "accuracy": correct / answers} if self.metrics else {"loss": loss}

    # Evaluation and prediction

    @named_keywords
    def evaluate(
        self, x: ArrayLike, y: ArrayLike, *, batch_size: int = INFERENCE_BATCH,
        sample_weight: ArrayLike | None = None,
    ) -> tuple[float, ...]:
        """Mean loss and metrics over examples and labels as `fit` takes them: (loss, accuracy)."""
        self._check_compiled()
        batch_size = integer(batch_size, "batch_size", least=1)
        return tuple(self._evaluate(self._examples(x, y, sample_weight), batch_size).values())

    def _evaluate(self, examples: Examples, batch_size: int) -> Logs:
        total_loss, correct, answers, n = 0.0, 0, 0, len(examples.x)
        for start in range(0, n, batch_size):
            x, labels, weights = examples.part(slice(start, start + batch_size))
            y = self.forward(x)
            total_loss += self.loss(y, labels, weights)[0] * len(x)
            hits, asked = self._answers(y, labels)
            correct, answers = correct + hits, answers + asked
        return self._logs(total_loss / n, correct, answers)

    @named_keywords
    def predict(self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH) -> Array:
        """Raw outputs (logits) for each row of `x`, computed `batch_size` rows at a time.

        Several threads may predict with one model at once.
        """
        x, batch_size = self._inputs(x), integer(batch_size, "batch_size", least=1)
        if len(x) <= batch_size:  # as for one image, where each line of Python counts
            return self.forward(x)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            y[rows] = self.forward(x[rows])
        return y

    @named_keywords
    def predict_proba(self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH) -> Array:
        """Probabilities of the classes (N, C): the softmax of `predict`.

        Of a model compiled for binary cross-entropy: those of a yes, the sigmoid of `predict`.
        """
        y = self.predict(x, batch_size=batch_size)
        return self.loss.probabilities(y) if self.compiled else softmax(y)

    @named_keywords
    def predict_classes(
        self, x: ArrayLike, *, batch_size: int = INFERENCE_BATCH
    ) -> NDArray[np.int64]:
        """The most probable class of each row (N,); for binary cross-entropy 0 or 1 an output."""
        y = self.predict(x, batch_size=batch_size)
        return self.loss.classes(y) if self.compiled else y.argmax(axis=-1)

    # Checks of data

    def _check_compiled(self) -> None:
        if not self.compiled:
            raise RuntimeError("the model does not know how to train: call compile() first")

    def _inputs(self, x: ArrayLike, where: str = "") -> Array:
        """`x` as an array of examples of this model, which is built for it if need be."""
        x = _examples.numbers(x, where)
        if not self.built and x.ndim > 1:
            self.build(x.shape[1:])
        self._check_built()
        return _examples.inputs(x, self.input_shape, where)

    def _examples(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None,
        class_weight: Any = None, where: str = "",
    ) -> Examples:
        """Inputs, labels and weights to train on or evaluate with, at least one of each."""
        self._check_compiled()
        x = self._inputs(x, where)
        n = len(x)
        if not n:
            raise ValueError(f"{where}`x` has shape {x.shape}: there are no examples")
        try:
            labels = self.loss.labels(y, n, self.output_shape)
            weights = None if sample_weight is None else weights_of(sample_weight, n)
            if class_weight is not None:
                factors = self.loss.class_weights(labels, class_weight, self.output_shape)
                weights = factors if weights is None else weights * factors
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}{error}") from None
        return Examples(x, labels, weights)

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
