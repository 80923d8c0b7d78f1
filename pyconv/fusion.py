"""Runs of layers that are computed as one: found when a model is built.

A `Sequential` runs *steps*. A step is a layer, or stands in for a few neighbours with the same two
methods, `forward` and `backward`; parameters, names and files know the layers alone.

    Conv2D, ReLU, MaxPooling2D   ConvPool: the convolution's output is never written to memory
    BatchNormalization, ReLU     Norm: one pass over memory. In prediction a convolution or dense layer
                                 before them, and max pooling behind, join in: WeightedNorm
    Residual, ReLU               ResidualStep: the sum and the ReLU are part of the last step of the body
"""

from __future__ import annotations

from typing import Any

from .functional import (
    add,
    conv2d,
    conv2d_max_pool2d,
    conv2d_max_pool2d_backward,
    dense,
    fold_batch_norm,
    relu_backward,
)
from .layers import (
    Activation,
    Array,
    BatchNormalization,
    Conv2D,
    Dense,
    Layer,
    MaxPooling2D,
    Residual,
)
from .layers.residual import backward_through

Spans = list[tuple[Layer, int]]


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
        self._options = conv._options | _pool_options(pool)

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


class Norm(Layer):
    """A batch normalization, perhaps a sum with a residual, and perhaps a ReLU.

    Parameters
    ----------
    norm : BatchNormalization
    activation : None or "relu"
    """

    def __init__(self, norm: BatchNormalization, activation: str | None) -> None:
        self.norm, self.activation = norm, activation
        self.params = norm.params

    def forward(self, x: Array, training: bool, residual: Array | None = None) -> Array:
        return self.norm.normalize(x, training, residual, self.activation)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        return self.gradients(dy, need_dx)[0]

    def gradients(self, dy: Array, need_dx: bool) -> tuple[Array | None, Array | None]:
        """dx, and the gradient by the residual, if there was one."""
        return self.norm.gradients(dy, need_dx)


class WeightedNorm(Norm):
    """A convolution or dense layer, then what `Norm` is, then perhaps a max pooling.

    In prediction the normalization is folded into the weights, unless there is a residual, whose
    addition is a pass of its own in any case. Folding takes less time than finding out whether the
    weights, which anybody may write to, are still the same.

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
        self.params = layer.params | norm.params

    def forward(self, x: Array, training: bool, residual: Array | None = None) -> Array:
        if training or residual is not None:
            y = super().forward(self.layer.forward(x, training), training, residual)
            return self.pool.forward(y, training) if self.pool else y
        w, b = fold_batch_norm(
            self.layer.params["w"], self.layer.params.get("b"), *self.norm.params.values(),
            *self.norm.state.values(), epsilon=self.norm.epsilon)
        if isinstance(self.layer, Dense):
            return dense(x, w, b, activation=self.activation)
        options = {"activation": self.activation, **self.layer._options}
        if self.pool:
            return conv2d_max_pool2d(x, w, b, **options, **_pool_options(self.pool))[0]
        return conv2d(x, w, b, **options)

    def gradients(self, dy: Array, need_dx: bool) -> tuple[Array | None, Array | None]:
        dz: Any = self.pool.backward(dy, need_dx=True) if self.pool else dy
        dz, dr = super().gradients(dz, need_dx=True)
        return self.layer.backward(dz, need_dx), dr


class ResidualStep(Layer):
    """A residual block, perhaps with the ReLU behind it.

    Parameters
    ----------
    block : Residual
    activation : None or "relu"

    Attributes
    ----------
    body, shortcut : list of (Layer, int)
        Their steps, as `fuse` gives them.
    joined : bool
        Whether the sum, and the ReLU, are part of the body's last step.
    """

    def __init__(self, block: Residual, activation: str | None) -> None:
        self.block, self.params, self.activation = block, block.params, activation
        self.body, self.shortcut = fuse(block.body), fuse(block.shortcut)
        self._first = [step for step, _ in self.body[:-1]]
        last: Any = self.body[-1][0]
        self._last = last
        self._aside = [step for step, _ in self.shortcut]
        # Its own ReLU would come before the sum.
        self.joined = isinstance(last, Norm) and not (
            last.activation or (isinstance(last, WeightedNorm) and last.pool))
        if self.joined:
            last.activation = activation

    def forward(self, x: Array, training: bool) -> Array:
        y, r = x, x
        for step in self._first:
            y = step.forward(y, training)
        for step in self._aside:
            r = step.forward(r, training)
        if self.joined:
            return self._last.forward(y, training, r)
        y = add(self._last.forward(y, training), r, activation=self.activation)
        if training:
            self.cache = y
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        dx: Any = dy
        dr: Any
        inner = need_dx or any(step.params for step in self._first)
        if self.joined:
            dx, dr = self._last.gradients(dy, inner)
        else:
            y = self.take_cache()
            dr = relu_backward(dy, y) if self.activation else dy
            dx = self._last.backward(dr, inner) if inner or self._last.params else None
        if inner:
            dx = backward_through(self._first, dx, need_dx)
        dr = backward_through(self._aside, dr, need_dx)
        return add(dx, dr) if need_dx else None


def fuse(layers: list[Layer]) -> Spans:
    """Steps that compute what `layers` do, each with the number of layers that it stands for."""
    steps: Spans = []
    i = 0
    while i < len(layers):
        step, count = _first_step(layers[i:])
        steps.append((step, count))
        i += count
    return steps


def _first_step(layers: list[Layer]) -> tuple[Layer, int]:
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
