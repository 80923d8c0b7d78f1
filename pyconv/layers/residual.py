"""A layer made of layers: what it adds to its input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..functional import add
from ..program import Program, Value
from .base import Array, Layer, Shape, checked_layers, describe, names_of, restored


class Residual(Layer):
    """``y = body(x) + shortcut(x)`` [1]_.

    Parameters
    ----------
    body : Layer or sequence of Layer
        Applied one after another.
    shortcut : Layer or sequence of Layer, optional
        Default: `x` itself.

    Raises
    ------
    ValueError
        If a layer is in use already, or, when the model is built, body and shortcut give different
        shapes.

    Notes
    -----
    A ReLU behind the sum is a layer of its own. A :class:`BatchNormalization` at the end of `body`,
    the sum and that ReLU are one pass over memory.

    References
    ----------
    .. [1] He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv.layers import BatchNormalization, Conv2D, ReLU
    >>> block = Residual([Conv2D(8, 3, padding="same"), ReLU(), Conv2D(8, 3, padding="same")])
    >>> block.build((32, 32, 8), np.random.default_rng(0))
    (32, 32, 8)
    >>> list(block.params)
    ['body/conv2d/w', 'body/conv2d/b', 'body/conv2d_1/w', 'body/conv2d_1/b']
    """

    _output_shape: Shape | None = None

    def __init__(
        self, body: Layer | Iterable[Any], shortcut: Layer | Iterable[Any] | None = None
    ) -> None:
        self.body = _chain(body, "body")
        self.shortcut = [] if shortcut is None else _chain(shortcut, "shortcut")
        checked_layers([*self.body, *self.shortcut], "body` and `shortcut")

    @property
    def inner(self) -> list[Layer]:  # type: ignore[override]
        """All layers in it."""
        return [each for layer in (*self.body, *self.shortcut) for each in (layer, *layer.inner)]

    def get_config(self) -> dict[str, Any]:
        """Descriptions of the layers, which the constructor takes as well."""
        shortcut = [describe(layer) for layer in self.shortcut] or None
        return {"body": [describe(layer) for layer in self.body], "shortcut": shortcut}

    @property
    def output_shape(self) -> Shape | None:
        return self._output_shape

    @output_shape.setter
    def output_shape(self, shape: Shape | None) -> None:
        """From then on the layers in it are in use, too."""
        self._output_shape = shape
        for layer, inner in zip((*self.body, *self.shortcut), self._shapes, strict=True):
            layer.output_shape = inner

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        shapes, self._shapes = [], []
        for where, chain in (("body", self.body), ("shortcut", self.shortcut)):
            shape = input_shape
            for name, layer in zip(names_of(chain), chain, strict=True):
                try:
                    shape = layer.build(shape, rng)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{where}: layer {name}: {error}") from error
                self._shapes.append(shape)
            shapes.append(shape)
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Residual adds `body`, which gives {shapes[0]}, and `shortcut`, which gives "
                f"{shapes[1]}, for an input of shape {input_shape}; make the shapes equal, as by a "
                f"1x1 Conv2D in `shortcut`"
            )
        self.params, self.grads, self.state = (
            {
                f"{name}/{key}": array
                for name, layer in self._named()
                for key, array in getattr(layer, kind).items()
            }
            for kind in ("params", "grads", "state")
        )
        return shapes[0]

    def _named(self) -> list[tuple[str, Layer]]:
        """Inner layers with their names, in order."""
        return [
            (f"{where}/{name}", layer)
            for where, chain in (("body", self.body), ("shortcut", self.shortcut))
            for name, layer in zip(names_of(chain), chain, strict=True)
        ]

    @property
    def weights(self) -> dict[str, Array]:
        return {
            f"{name}/{key}": array
            for name, layer in self._named()
            for key, array in layer.weights.items()
        }

    def bind(
        self, params: dict[str, Array], grads: dict[str, Array], state: dict[str, Array]
    ) -> None:
        super().bind(params, grads, state)
        for name, layer in self._named():
            layer.bind(
                {key: params[f"{name}/{key}"] for key in layer.params},
                {key: grads[f"{name}/{key}"] for key in layer.params},
                {key: state[f"{name}/{key}"] for key in layer.state},
            )

    def forward(self, x: Array, training: bool) -> Array:
        y, r = x, x
        for layer in self.body:
            y = layer.forward(y, training)
        for layer in self.shortcut:
            r = layer.forward(r, training)
        return add(y, r)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        dx = backward_through(self.body, dy, need_dx)
        dr = backward_through(self.shortcut, dy, need_dx)
        return add(dx, dr) if dx is not None and dr is not None and need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        y, r = program.fork(x)
        for layer in self.shortcut:
            r = layer.plan(program, r)
        for layer in self.body:
            y = layer.plan(program, y)
        return program.sum(y, r, relu=False)


def backward_through(layers: list[Layer], dy: Array, need_dx: bool) -> Array | None:
    """`backward` of layers, the last one first; no more of it than gradients need."""
    dx: Any = dy
    for i in reversed(range(len(layers))):
        need = need_dx or any(layer.params for layer in layers[:i])
        if not (need or layers[i].params):
            return None
        dx = layers[i].backward(dx, need)
    return dx


def _chain(layers: Layer | Iterable[Any], name: str) -> list[Layer]:
    if isinstance(layers, Layer | dict):
        layers = [layers]
    if not isinstance(layers, Iterable) or isinstance(layers, str | type):
        raise TypeError(f"`{name}` is {layers!r}; expected a layer or a list of layers")
    layers = [restored(layer) if isinstance(layer, dict) else layer for layer in layers]
    if not layers:
        raise ValueError(f"`{name}` is empty; expected a layer or some")
    return layers
