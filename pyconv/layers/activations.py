"""Elementwise functions as layers, and dropout."""

from __future__ import annotations

import numpy as np

from .._arguments import real
from ..functional import relu, relu_backward
from ..program import Program, Value
from .base import Array, Layer, Shape, activation_of


class Activation(Layer):
    """An elementwise function as a layer of its own.

    Parameters
    ----------
    activation : {"relu", "linear"}
        ``relu(x) = max(x, 0)``; "linear" passes `x` on.
    """

    def __init__(self, activation: str | None) -> None:
        self.activation = activation_of(activation)

    def forward(self, x: Array, training: bool) -> Array:
        y = relu(x) if self.activation else x
        if training:
            self.cache = y
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        y = self.take_cache()
        return relu_backward(dy, y) if self.activation else dy

    def plan(self, program: Program, x: Value) -> Value:
        return program.rectify(x) if self.activation else x


class ReLU(Activation):
    """``relu(x) = max(x, 0)``; prefer ``activation="relu"`` of the layer before, which is fused."""

    def __init__(self) -> None:
        super().__init__("relu")


class Dropout(Layer):
    """In training, drop a random share of the inputs and scale up the rest; else pass them on.

    Parameters
    ----------
    rate : float in [0, 1)
        Share of inputs that is dropped; the others are divided by ``1 - rate``.

    Notes
    -----
    Draws come from the model's generator: a model's `seed` makes them reproducible, and a saved
    model goes on with the draws that would have come next.
    """

    def __init__(self, rate: float) -> None:
        self.rate = real(rate, "rate", below=1.0)

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        self._rng = rng
        return {}

    def forward(self, x: Array, training: bool) -> Array:
        if not training:
            return x
        # float32 draws in [0, 1) for either dtype: half the cost, and the same mask.
        keep = self._rng.random(x.shape, np.float32) >= self.rate
        self.cache = mask = keep.astype(x.dtype) / (1 - self.rate)
        return x * mask

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        mask = self.take_cache()
        return dy * mask if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return super().plan(program, x) if program.training else x
