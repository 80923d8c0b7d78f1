"""Runs of layers that one kernel computes: found when a model is built.

A `Sequential` runs *steps*. A step is a layer, or stands in for a few neighbours with the same two
methods, `forward` and `backward`; parameters, names and files know the layers alone.

    Conv2D, ReLU, MaxPooling2D   ConvPool: the convolution's output is never written to memory
"""

from __future__ import annotations

from typing import Any

from .functional import conv2d_max_pool2d, conv2d_max_pool2d_backward
from .layers import Activation, Array, Conv2D, Layer, MaxPooling2D
from .program import Program, Value


class ConvPool(Layer):
    """A convolution, perhaps a ReLU, and a max pooling.

    Parameters
    ----------
    conv : Conv2D
    pool : MaxPooling2D
    activation : None or "relu"
    """

    def __init__(self, conv: Conv2D, pool: MaxPooling2D, activation: str | None) -> None:
        self.conv, self.pool, self.activation = conv, pool, activation
        self.params, self.grads = conv.params, conv.grads
        self._options: dict[str, Any] = {
            **conv._options, "window": pool.pool_size, "pool_stride": pool.strides,
            "pool_padding": pool.padding,
        }

    def forward(self, x: Array, training: bool) -> Array:
        y, indices = conv2d_max_pool2d(
            x, self.params["w"], self.params.get("b"), activation=self.activation, **self._options)
        if training:
            self.cache = x, indices
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x, indices = self.take_cache()
        need = ("x", *self.params) if need_dx else (*self.params,)
        dx, *gradients = conv2d_max_pool2d_backward(
            dy, indices, x, self.params["w"], need=need, **self._options)
        for grad, value in zip(self.grads.values(), gradients, strict=False):  # db is None: no bias
            grad[...] = value
        return dx

    def plan(self, program: Program, x: Value) -> Value:
        return program.convolution_max_pool(
            x, self.params, self.grads, bool(self.activation), **self._options)


def fuse(layers: list[Layer]) -> list[tuple[Layer, int]]:
    """Steps that compute what `layers` do, each with the number of layers that it stands for."""
    steps: list[tuple[Layer, int]] = []
    i = 0
    while i < len(layers):
        step, count = _first_step(layers[i:])
        steps.append((step, count))
        i += count
    return steps


def _first_step(layers: list[Layer]) -> tuple[Layer, int]:
    conv = layers[0]
    if isinstance(conv, Conv2D):
        count = 2 if len(layers) > 1 and _is_relu(layers[1]) else 1
        pool = layers[count] if len(layers) > count else None
        if isinstance(pool, MaxPooling2D):
            return ConvPool(conv, pool, "relu" if count == 2 else conv.activation), count + 1
    return conv, 1


def _is_relu(layer: Layer) -> bool:
    return isinstance(layer, Activation) and layer.activation == "relu"
