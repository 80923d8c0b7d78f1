"""Pooling layers: windows, and whole images."""

from __future__ import annotations

from typing import Any

from ..functional import (
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    global_max_pool2d,
    global_max_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from ..geometry import pair
from ..program import Program, Value
from .base import Array, Layer, images, padding_of


class _Pooling2D(Layer):
    """What max and average pooling share: the window."""

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: Any = "valid",
    ) -> None:
        self.pool_size = pair(pool_size, "pool_size")
        self.strides = None if strides is None else pair(strides, "strides")
        self.padding = padding_of(padding)
        self._options: dict[str, Any] = {
            "window": self.pool_size,
            "stride": self.strides,
            "padding": self.padding,
        }


class MaxPooling2D(_Pooling2D):
    """Maximum over windows of each channel.

    Parameters
    ----------
    pool_size : int or (h, w), default 2
    strides : int, (h, w) or None, default None
        None is `pool_size`: windows side by side.
    padding : see :class:`Conv2D`
        Padding never wins.

    Notes
    -----
    (H, W, C) -> (OH, OW, C). The gradient goes to the window's first maximum in row-major order.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPooling2D(8, 8, "same").build((64, 64, 8), np.random.default_rng(0))
    (8, 8, 8)
    """

    def forward(self, x: Array, training: bool) -> Array:
        if not training:
            return max_pool2d(x, **self._options)
        y, indices = max_pool2d(x, return_indices=True, **self._options)
        self.cache = indices, x.shape
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        indices, x_shape = self.take_cache()
        return max_pool2d_backward(dy, indices, x_shape) if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return program.max_pool(x, **self._options)


class AveragePooling2D(_Pooling2D):
    """Mean over windows of each channel; padding is not counted.

    Parameters
    ----------
    pool_size, strides, padding : see :class:`MaxPooling2D`

    Notes
    -----
    (H, W, C) -> (OH, OW, C).
    """

    def forward(self, x: Array, training: bool) -> Array:
        if training:
            self.cache = x.shape
        return avg_pool2d(x, **self._options)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x_shape = self.take_cache()
        return avg_pool2d_backward(dy, x_shape, **self._options) if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return program.average_pool(x, **self._options)


class GlobalMaxPooling2D(Layer):
    """Maximum of each channel over the whole image: (H, W, C) -> (C,)."""

    def forward(self, x: Array, training: bool) -> Array:
        images(self, x.shape[1:])
        if not training:
            return global_max_pool2d(x)
        y, indices = global_max_pool2d(x, return_indices=True)
        self.cache = indices, x.shape
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        indices, x_shape = self.take_cache()
        return global_max_pool2d_backward(dy, indices, x_shape) if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return program.max_pool(x, x.shape[1:3]).reshaped((x.shape[0], x.shape[3]))


class GlobalAveragePooling2D(Layer):
    """Mean of each channel over the whole image: (H, W, C) -> (C,)."""

    def forward(self, x: Array, training: bool) -> Array:
        images(self, x.shape[1:])
        if training:
            self.cache = x.shape
        return global_avg_pool2d(x)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x_shape = self.take_cache()
        return global_avg_pool2d_backward(dy, x_shape) if need_dx else None

    def plan(self, program: Program, x: Value) -> Value:
        return program.average_pool(x, x.shape[1:3]).reshaped((x.shape[0], x.shape[3]))
