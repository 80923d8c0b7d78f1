"""Elementwise functions as layers, and dropout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._arguments import choose, real
from ..functional import (
    dropout,
    dropout_backward,
    elu,
    elu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from ..functional.activations import KINDS
from ..program import Program, Value
from .base import Array, Layer, Shape

# name -> the function, and its gradient from (dy, y)
ACTIVATIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "relu": (relu, relu_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "elu": (elu, elu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "tanh": (tanh, tanh_backward),
    "softmax": (softmax, softmax_backward),
}
# Defaults of those whose numbers do not depend on each other.
PARAMETERS = {"leaky_relu": 0.2, "elu": 1.0, "sigmoid": 0.0, "tanh": 0.0}


class Activation(Layer):
    """An elementwise function as a layer of its own, or the softmax of each row.

    Parameters
    ----------
    activation : {"relu", "leaky_relu", "elu", "sigmoid", "tanh", "softmax", "linear"}
        As :mod:`pyconv.functional` has them, with a slope of 0.2 and an alpha of 1; "linear" passes
        `x` on.

    Notes
    -----
    A network that is trained ends in logits: its loss applies the softmax or the sigmoid.

    Examples
    --------
    >>> import numpy as np
    >>> Activation("tanh").forward(np.array([[-1.0, 0.0, 1.0]]), training=False).round(3)
    array([[-0.762,  0.   ,  0.762]])
    """

    def __init__(self, activation: str | None) -> None:
        name = choose(activation, "activation", (None, "linear", *ACTIVATIONS))
        self.activation = None if name == "linear" else name
        self._options: dict[str, float] = {}

    def forward(self, x: Array, training: bool) -> Array:
        y = ACTIVATIONS[self.activation][0](x, **self._options) if self.activation else x
        if training:
            self.cache = y
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        y = self.take_cache()
        if not need_dx or self.activation is None:
            return dy if need_dx else None
        return ACTIVATIONS[self.activation][1](dy, y, **self._options)

    def plan(self, program: Program, x: Value) -> Value:
        if self.activation is None:
            return x
        if self.activation == "relu":
            return program.rectify(x)
        if self.activation in PARAMETERS:
            a = next(iter(self._options.values()), PARAMETERS[self.activation])
            return program.activate(x, KINDS.index(self.activation), a)
        return super().plan(program, x)


class ReLU(Activation):
    """``relu(x) = max(x, 0)``; prefer ``activation="relu"`` of the layer before, which is fused."""

    def __init__(self) -> None:
        super().__init__("relu")


class LeakyReLU(Activation):
    """``x`` where it is above 0, else ``negative_slope * x``.

    Parameters
    ----------
    negative_slope : float, default 0.3
        0 or more.
    """

    def __init__(self, negative_slope: float = 0.3) -> None:
        super().__init__("leaky_relu")
        self.negative_slope = real(negative_slope, "negative_slope")
        self._options = {"negative_slope": self.negative_slope}


class ELU(Activation):
    """``x`` where it is above 0, else ``alpha * (exp(x) - 1)``.

    Parameters
    ----------
    alpha : float, default 1.0
        0 or more.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__("elu")
        self.alpha = real(alpha, "alpha")
        self._options = {"alpha": self.alpha}


class Dropout(Layer):
    """In training, drop a random share of the inputs and scale up the rest; else pass them on.

    Parameters
    ----------
    rate : float in [0, 1)
        Share of inputs that is dropped; the others are divided by ``1 - rate``.

    Notes
    -----
    The seed of each pass comes from the model's generator: a model's `seed` makes it reproducible,
    and a saved model goes on with the draws that would have come next.
    """

    def __init__(self, rate: float) -> None:
        self.rate = real(rate, "rate", below=1.0)

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        self._rng = rng
        return {}

    def forward(self, x: Array, training: bool) -> Array:
        if not training:
            return x
        self.cache = seed = int(self._rng.integers(2**63))
        return dropout(x, self.rate, seed=seed)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        seed = self.take_cache()
        return dropout_backward(dy, self.rate, seed=seed) if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return super().plan(program, x) if program.training else x
