"""Layers: parameters, and the cache that the backward pass needs.

A layer's life, driven by :class:`pyconv.model.Sequential`:

    build(input_shape, rng) -> output_shape    draws `params`, a dict of arrays, and allots `grads`
    bind(params, grads)                        moves them into the model's two flat buffers
    forward(x, training) -> y                  a training pass keeps in `cache` what backward needs
    backward(dy, need_dx) -> dx or None        fills `grads`, frees `cache`

A forward pass with ``training=False`` writes nothing to the layer, so that several threads can
predict with one model. Names and meanings of the arguments are Keras's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Configurable, choose, real
from .functional import (
    avg_pool2d,
    avg_pool2d_backward,
    conv2d,
    conv2d_backward,
    dense,
    dense_backward,
    max_pool2d,
    max_pool2d_backward,
    relu,
    relu_backward,
)
from .geometry import integer, pair
from .initializers import NAMES, initial_values

Array = NDArray[Any]
Shape = tuple[int, ...]
PADDINGS = ("valid", "same", "same_lower")


class Layer(Configurable):
    """Base of all layers. A layer without parameters defines `forward` and `backward` alone.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        Trainable parameters ("w", then "b") and the gradients of the loss by them; set by `build`.
    output_shape : tuple of int or None
        Shape of one output, without the batch axis; None until a model is built with the layer.
    """

    params: dict[str, Array]
    grads: dict[str, Array]
    output_shape: Shape | None = None
    cache: Any = None

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Make the parameters for inputs of `input_shape` (no batch axis); the output's shape."""
        self.bind(params := self.initial_params(input_shape, rng), _zeros_like(params))
        # An empty batch knows the output's shape, and meets every check of the operation.
        return self.forward(np.empty((0, *input_shape)), training=False).shape[1:]

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        """Initial values of the parameters, float64."""
        return {}

    def bind(self, params: dict[str, Array], grads: dict[str, Array]) -> None:
        """Use these arrays, of the shapes made by `build`, as parameters and gradients."""
        self.params, self.grads = params, grads

    def forward(self, x: Array, training: bool) -> Array:
        """The layer's output for a batch `x`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward pass")

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Fill `grads` from the gradient `dy` of the last training pass; `dx`, or None."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward pass")

    def take_cache(self) -> Any:
        """What the last training pass kept; it is freed when its one reader is done."""
        cache, self.cache = self.cache, None
        return cache


def _zeros_like(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def _activation(value: str | None) -> str | None:
    """None or "relu", the activations that the kernels fuse."""
    if value == "softmax":
        raise ValueError(
            "`activation` is 'softmax', which no layer applies: leave it out. Networks end in "
            "logits; the loss 'softmax_cross_entropy' and predict_proba apply the softmax"
        )
    return None if choose(value, "activation", (None, "linear", "relu")) == "linear" else value


def _padding(value: Any) -> Any:
    return choose(value, "padding", PADDINGS) if isinstance(value, str) else value


def _images(layer: Layer, input_shape: Shape) -> Shape:
    """`input_shape` if it is (H, W, C)."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{type(layer).__name__} takes images (H, W, C), but its input has shape {input_shape}"
        )
    return input_shape


class _Weighted(Layer):
    """A layer with weights `w` (inputs and outputs on the last two axes), bias `b`, activation."""

    use_bias: bool
    activation: str | None
    kernel_initializer: str
    bias_initializer: str

    def _set_weights_config(
        self, activation: str | None, use_bias: bool, kernel_initializer: str, bias_initializer: str
    ) -> None:
        self.activation = _activation(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = choose(kernel_initializer, "kernel_initializer", NAMES)
        self.bias_initializer = choose(bias_initializer, "bias_initializer", NAMES)

    def _draw(self, shape: Shape, groups: int, rng: np.random.Generator) -> dict[str, Array]:
        *taps, fan_in, c_out = shape
        fan_in, fan_out = math.prod(taps) * fan_in, math.prod(taps) * c_out // groups
        params = {"w": initial_values(self.kernel_initializer, shape, fan_in, fan_out, rng)}
        if self.use_bias:
            params["b"] = initial_values(self.bias_initializer, (c_out,), fan_in, fan_out, rng)
        return params

    def _gradients(self, x: Array, dy: Array, need: tuple[str, ...]) -> tuple[Array | None, ...]:
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
        self.padding = _padding(padding)
        self.dilation_rate = pair(dilation, "dilation_rate")

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        c_in = _images(self, input_shape)[2]
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
        self.groups = _images(self, input_shape)[2]
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
        self.padding = _padding(padding)
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


class GlobalAveragePooling2D(Layer):
    """Mean of each channel over the whole image: (H, W, C) -> (C,)."""

    def forward(self, x: Array, training: bool) -> Array:
        _images(self, x.shape[1:])
        if training:
            self.cache = x.shape
        return avg_pool2d(x, x.shape[1:3]).reshape(len(x), x.shape[3])

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x_shape = self.take_cache()
        if not need_dx:
            return None
        dy = dy.reshape(len(dy), 1, 1, -1)
        return avg_pool2d_backward(dy, x_shape, x_shape[1:3])


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
        N, H, W, C = (len(x), *_images(self, x.shape[1:]))
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


class Activation(Layer):
    """An elementwise function as a layer of its own.

    Parameters
    ----------
    activation : {"relu", "linear"}
        ``relu(x) = max(x, 0)``; "linear" passes `x` on.
    """

    def __init__(self, activation: str | None) -> None:
        self.activation = _activation(activation)

    def forward(self, x: Array, training: bool) -> Array:
        y = relu(x) if self.activation else x
        if training:
            self.cache = y
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        y = self.take_cache()
        return relu_backward(dy, y) if self.activation else dy


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
