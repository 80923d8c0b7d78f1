"""Runs of layers that are computed as one: found when a model is built.

A `Sequential` runs *steps*. A step is a layer, or stands in for a few neighbours: its `plan` adds what
they do to a compiled program; parameters, names and files know the layers alone.

    Conv2D, ReLU, MaxPooling2D   ConvPool: the convolution's output is never written to memory
    BatchNormalization, ReLU     Norm: one pass over memory. In prediction a convolution or dense layer
                                 before them, and max pooling behind, join in: WeightedNorm
    Residual, ReLU               ResidualStep: the sum and the ReLU are part of the last step of the body
"""

from __future__ import annotations

from typing import Any, Protocol

from .layers import Activation, BatchNormalization, Conv2D, Dense, Layer, MaxPooling2D, Residual
from .program import Program, Value


class Step(Protocol):
    """A layer, or what stands in for a few."""

    def plan(self, program: Program, x: Value) -> Value:
        """Add what it does to `program`."""


Spans = list[tuple[Step, int]]


class ConvPool:
    """A convolution, perhaps a ReLU, and a max pooling.

    Parameters
    ----------
    conv : Conv2D
    pool : MaxPooling2D
    activation : None or "relu"
    """

    def __init__(self, conv: Conv2D, pool: MaxPooling2D, activation: str | None) -> None:
        self.conv, self.pool, self.activation = conv, pool, activation

    def plan(self, program: Program, x: Value) -> Value:
        """One operation."""
        return program.convolution_max_pool(
            x, self.conv.params, self.conv.grads, bool(self.activation), **self.conv._options,
            **_pool_options(self.pool))


class Norm:
    """A batch normalization, perhaps a sum with a residual, and perhaps a ReLU.

    Parameters
    ----------
    norm : BatchNormalization
    activation : None or "relu"
    """

    def __init__(self, norm: BatchNormalization, activation: str | None) -> None:
        self.norm, self.activation = norm, activation

    def plan(self, program: Program, x: Value, residual: Value | None = None) -> Value:
        """One operation."""
        return program.normalization(x, self.norm, bool(self.activation), residual)


class WeightedNorm(Norm):
    """A convolution or dense layer, then what `Norm` is, then perhaps a max pooling.

    In prediction the normalization is folded into the weights, whenever these have changed.

    Parameters
    ----------
    layer : Conv2D or Dense
    norm, activation : see `Norm`
    pool : MaxPooling2D or None
    """

    def __init__(
        self, layer: Conv2D | Dense, norm: BatchNormalization, activation: str | None,
        pool: MaxPooling2D | None,
    ) -> None:
        super().__init__(norm, activation)
        self.layer, self.pool = layer, pool

    def plan(self, program: Program, x: Value, residual: Value | None = None) -> Value:
        """One operation in prediction, as many as there are layers in training."""
        if program.training or (residual and not isinstance(self.layer, Conv2D)):
            y = super().plan(program, self.layer.plan(program, x), residual)
            return self.pool.plan(program, y) if self.pool else y
        params = program.folded(self.layer.params, self.norm)
        if self.pool and isinstance(self.layer, Conv2D):
            return program.convolution_max_pool(
                x, params, {}, bool(self.activation), **self.layer._options,
                **_pool_options(self.pool))
        if residual and isinstance(self.layer, Conv2D):
            return program.convolution(
                x, params, {}, bool(self.activation), **self.layer._options, residual=residual)
        return self.layer.plan_with(program, x, params, {}, bool(self.activation))


class ResidualStep:
    """A residual block, perhaps with the ReLU behind it.

    Parameters
    ----------
    block : Residual
    activation : None or "relu"

    Attributes
    ----------
    body, shortcut : list of (Step, int)
        Their steps, as `fuse` gives them.
    joined : bool
        Whether the sum, and the ReLU, are part of the body's last step.
    """

    def __init__(self, block: Residual, activation: str | None) -> None:
        self.block, self.activation = block, activation
        self.body, self.shortcut = fuse(block.body), fuse(block.shortcut)
        last = self.body[-1][0]
        # Its own ReLU would come before the sum.
        self.joined = isinstance(last, Norm) and not (last.activation or getattr(last, "pool", None))
        if isinstance(last, Norm) and self.joined:
            last.activation = activation

    def plan(self, program: Program, x: Value) -> Value:
        """The shortcut's steps, then the body's, then the sum if it is not part of them."""
        y, r = program.fork(x)
        for step, _ in self.shortcut:
            r = step.plan(program, r)
        *first, (last, _) = self.body
        for step, _ in first:
            y = step.plan(program, y)
        if isinstance(last, Norm) and self.joined:
            return last.plan(program, y, r)
        return program.sum(last.plan(program, y), r, bool(self.activation))


def fuse(layers: list[Layer]) -> Spans:
    """Steps that compute what `layers` do, each with the number of layers that it stands for."""
    steps: Spans = []
    i = 0
    while i < len(layers):
        step, count = _first_step(layers[i:])
        steps.append((step, count))
        i += count
    return steps


def _first_step(layers: list[Layer]) -> tuple[Step, int]:
    first, second = layers[0], layers[1] if len(layers) > 1 else None
    if isinstance(first, Conv2D | Dense) and isinstance(second, BatchNormalization):
        if first.activation is None:
            activation, count = _relu_at(layers, 2)
            pool = layers[count] if len(layers) > count else None
            if not (isinstance(pool, MaxPooling2D) and isinstance(first, Conv2D)):
                pool = None
            return WeightedNorm(first, second, activation, pool), count + (pool is not None)
    if isinstance(first, BatchNormalization):
        activation, count = _relu_at(layers, 1)
        return Norm(first, activation), count
    if isinstance(first, Residual):
        activation, count = _relu_at(layers, 1)
        return ResidualStep(first, activation), count
    if isinstance(first, Conv2D):
        activation, count = _relu_at(layers, 1)
        pool = layers[count] if len(layers) > count else None
        if isinstance(pool, MaxPooling2D):
            return ConvPool(first, pool, activation or first.activation), count + 1
    return first, 1


def _relu_at(layers: list[Layer], i: int) -> tuple[str | None, int]:
    """Whether layers[i] is a ReLU, and how many layers come before what is behind it."""
    layer = layers[i] if len(layers) > i else None
    found = isinstance(layer, Activation) and layer.activation == "relu"
    return ("relu", i + 1) if found else (None, i)


def _pool_options(pool: MaxPooling2D) -> dict[str, Any]:
    return {"window": pool.pool_size, "pool_stride": pool.strides, "pool_padding": pool.padding}
