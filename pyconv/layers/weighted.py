"""Layers with weights: convolutions and the fully connected layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arguments import choose
from ..functional import conv2d, conv2d_backward, dense, dense_backward, relu_backward
from ..geometry import integer, pair
from ..initializers import NAMES, initial_values
from ..program import Program, Value
from .base import Array, Layer, Shape, activation_of, images, padding_of


class _Weighted(Layer):
    """A layer with weights `w` (inputs and outputs on the last two axes), bias `b`, activation."""

    use_bias: bool
    activation: str | None
    kernel_initializer: str
    bias_initializer: str

    def _set_weights_config(
        self, activation: str | None, use_bias: bool, kernel_initializer: str, bias_initializer: str
    ) -> None:
        self.activation = activation_of(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = choose(kernel_initializer, "kernel_initializer", NAMES)
        self.bias_initializer = choose(bias_initializer, "bias_initializer", NAMES)

    def _draw(self, shape: Shape, groups: int, rng: np.random.Generator) -> dict[str, Array]:
        *taps, fan_in, c_out = shape
        fans = math.prod(taps) * fan_in, math.prod(taps) * c_out // groups
        return self._initial(shape, *fans, c_out, rng)

    def _initial(
        self, shape: Shape, fan_in: int, fan_out: int, c_out: int, rng: np.random.Generator
    ) -> dict[str, Array]:
        params = {"w": initial_values(self.kernel_initializer, shape, fan_in, fan_out, rng)}
        if self.use_bias:
            params["b"] = initial_values(self.bias_initializer, (c_out,), fan_in, fan_out, rng)
        return params

    def _gradients(self, x: Array, dy: Array, need: tuple[str, ...]) -> tuple[Array | None, ...]:
        raise NotImplementedError

    def plan(self, program: Program, x: Value) -> Value:
        return self.plan_with(program, x, self.params, self.grads, bool(self.activation))

    def plan_with(
        self, program: Program, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool
    ) -> Value:
        """`plan` with other parameters, arrays or values of the program, and perhaps a ReLU."""
        raise NotImplementedError

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x, y = self.take_cache()
        if self.activation:
            dy = relu_backward(dy, y)
        dx, *gradients = self._gradients(x, dy, ("x", *self.params) if need_dx else (*self.params,))
        for grad, value in zip(self.grads.values(), gradients, strict=False):  # db is None: no bias
            grad[...] = value
        return dx


class Conv2D(_Weighted):
    """Convolution (cross-correlation) of images with trained filters.

    Parameters
    ----------
    filters : int
        Number of filters, C_out.
    kernel_size, strides, dilation_rate : int or (h, w)
    padding : {"valid", "same", "same_lower"}, int, (ph, pw) or ((top, bottom), (left, right))
        As in :func:`pyconv.conv2d`.
    groups : int, default 1
        Must divide the input's channels and `filters`.
    activation : {None, "linear", "relu"}
        "relu" is fused into the kernel.
    use_bias : bool, default True
    kernel_initializer, bias_initializer : str
        A name of :mod:`pyconv.initializers`.

    Raises
    ------
    ValueError, TypeError
        For a bad argument at once, for one that does not suit the input when the model is built.

    Notes
    -----
    (H, W, C_in) -> (OH, OW, filters); `w` is (KH, KW, C_in // groups, filters), `b` (filters,).

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2D(8, 3, strides=2, padding="same", activation="relu")
    >>> layer.build((64, 64, 3), np.random.default_rng(0))
    (32, 32, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
    ) -> None:
        self.filters = integer(filters, "filters", least=1)
        self.groups = integer(groups, "groups", least=1)
        self._set_geometry(kernel_size, strides, padding, dilation_rate)
        self._set_weights_config(activation, use_bias, kernel_initializer, bias_initializer)

    def _set_geometry(self, kernel_size: Any, strides: Any, padding: Any, dilation: Any) -> None:
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = padding_of(padding)
        self.dilation_rate = pair(dilation, "dilation_rate")

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        c_in = images(self, input_shape)[2]
        if c_in % self.groups or self.filters % self.groups:
            raise ValueError(
                f"`groups` is {self.groups}, which must divide the {c_in} channels of the input "
                f"and `filters`, {self.filters}"
            )
        self._options: dict[str, Any] = {
            "stride": self.strides,
            "padding": self.padding,
            "dilation": self.dilation_rate,
            "groups": self.groups,
        }
        return self._draw(
            (*self.kernel_size, c_in // self.groups, self.filters), self.groups, rng
        )

    def forward(self, x: Array, training: bool) -> Array:
        w, b = self.params["w"], self.params.get("b")
        y = conv2d(x, w, b, activation=self.activation, **self._options)
        if training:
            self.cache = x, y
        return y

    def _gradients(self, x: Array, dy: Array, need: tuple[str, ...]) -> tuple[Array | None, ...]:
        return conv2d_backward(dy, x, self.params["w"], need=need, **self._options)

    def plan_with(
        self, program: Program, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool
    ) -> Value:
        return program.convolution(x, params, grads, relu, **self._options)


class DepthwiseConv2D(Conv2D):
    """Convolution of each channel by itself with `depth_multiplier` filters of its own.

    Parameters
    ----------
    kernel_size, strides, padding, dilation_rate, activation, use_bias : see :class:`Conv2D`
    kernel_initializer, bias_initializer : see :class:`Conv2D`
    depth_multiplier : int, default 1
        Filters, and so output channels, for each input channel.

    Notes
    -----
    (H, W, C_in) -> (OH, OW, C_in * depth_multiplier), those of one input channel side by side. It
    is :class:`Conv2D` with ``groups=C_in``; `w` is (KH, KW, 1, C_in * depth_multiplier).

    Examples
    --------
    >>> import numpy as np
    >>> layer = DepthwiseConv2D(3, padding="same", depth_multiplier=2)
    >>> layer.build((8, 8, 3), np.random.default_rng(0)), layer.params["w"].shape
    ((8, 8, 6), (3, 3, 1, 6))
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        dilation_rate: int | tuple[int, int] = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
    ) -> None:
        self.depth_multiplier = integer(depth_multiplier, "depth_multiplier", least=1)
        self._set_geometry(kernel_size, strides, padding, dilation_rate)
        self._set_weights_config(activation, use_bias, kernel_initializer, bias_initializer)

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        self.groups = images(self, input_shape)[2]
        self.filters = self.groups * self.depth_multiplier
        return super().initial_params(input_shape, rng)


class Dense(_Weighted):
    """Fully connected layer, ``y = x @ w + b``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation, use_bias, kernel_initializer, bias_initializer : see :class:`Conv2D`

    Notes
    -----
    (features,) -> (units,); images go through :class:`Flatten` first. `w` is (features, units).

    Examples
    --------
    >>> import numpy as np
    >>> Dense(6).build((64,), np.random.default_rng(0))
    (6,)
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
    ) -> None:
        self.units = integer(units, "units", least=1)
        self._set_weights_config(activation, use_bias, kernel_initializer, bias_initializer)

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        if len(input_shape) != 1:
            raise ValueError(
                f"Dense takes rows of features, but its input has shape {input_shape}; put a "
                "Flatten() or GlobalAveragePooling2D() before it"
            )
        return self._draw((*input_shape, self.units), 1, rng)

    def forward(self, x: Array, training: bool) -> Array:
        y = dense(x, self.params["w"], self.params.get("b"), activation=self.activation)
        if training:
            self.cache = x, y
        return y

    def _gradients(self, x: Array, dy: Array, need: tuple[str, ...]) -> tuple[Array | None, ...]:
        return dense_backward(dy, x, self.params["w"], need=need)

    def plan_with(
        self, program: Program, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool
    ) -> Value:
        N, F = x.shape
        w = params["w"]
        shape = (1, 1, *w.shape)
        params = {**params, "w": w.reshaped(shape) if isinstance(w, Value) else w.reshape(shape)}
        y = program.convolution(x.reshaped((N, 1, 1, F)), params, grads, relu)
        return y.reshaped((N, self.units))
