"""Layers that move or scale numbers: padding, flattening, rescaling."""

from __future__ import annotations

import math

import numpy as np

from .._arguments import real
from ..geometry import pair
from ..program import Program, Value
from .base import Array, Layer, images


class ZeroPadding2D(Layer):
    """Zeros around each image: (H, W, C) -> (top + H + bottom, left + W + right, C).

    Parameters
    ----------
    padding : int, (ph, pw) or ((top, bottom), (left, right)), default 1

    Examples
    --------
    >>> import numpy as np
    >>> ZeroPadding2D(((1, 0), (2, 2))).build((8, 8, 3), np.random.default_rng(0))
    (9, 12, 3)
    """

    def __init__(
        self, padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 1
    ) -> None:
        sides = padding if isinstance(padding, tuple | list) else (padding, padding)
        if len(sides) != 2:
            raise ValueError(
                f"`padding` is {padding!r}; expected an int, (ph, pw) or "
                "((top, bottom), (left, right))"
            )
        self.padding = tuple(pair(side, "padding", least=0) for side in sides)

    def forward(self, x: Array, training: bool) -> Array:
        N, H, W, C = (len(x), *images(self, x.shape[1:]))
        (top, bottom), (left, right) = self.padding
        y = np.zeros((N, top + H + bottom, left + W + right, C), x.dtype)
        y[:, top : top + H, left : left + W] = x
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        (top, bottom), (left, right) = self.padding
        return dy[:, top : dy.shape[1] - bottom, left : dy.shape[2] - right]


class Rescaling(Layer):
    """``y = x * scale + offset``: the way from bytes to small numbers, as part of the model.

    Parameters
    ----------
    scale : float
        1 / 255 for images of bytes; a model takes uint8 images as they are.
    offset : float, default 0.0

    Examples
    --------
    >>> import numpy as np
    >>> Rescaling(1 / 255).forward(np.array([[0.0, 51.0, 255.0]]), training=False)
    array([[0. , 0.2, 1. ]])
    """

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        self.scale = real(scale, "scale", least=-math.inf)
        self.offset = real(offset, "offset", least=-math.inf)

    def forward(self, x: Array, training: bool) -> Array:
        y = x * self.scale
        if self.offset:
            y += self.offset
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        return dy * self.scale if need_dx else None


class Flatten(Layer):
    """Each example as one row, in row-major order: (H, W, C) -> (H * W * C,)."""

    def forward(self, x: Array, training: bool) -> Array:
        if training:
            self.cache = x.shape
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        return dy.reshape(self.take_cache())

    def plan(self, program: Program, x: Value) -> Value:
        return x.reshaped((x.shape[0], math.prod(x.shape[1:])))
