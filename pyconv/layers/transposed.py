"""The transposed convolution as a layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..functional import conv2d_transpose, conv2d_transpose_backward
from ..geometry import integer, pair
from ..program import Program, Value
from .base import Array, Shape, images, padding_of
from .weighted import _Weighted


class Conv2DTranspose(_Weighted):
    """Transposed convolution: the way from small images to `strides` times larger ones.

    Parameters
    ----------
    filters : int
        Number of output channels, C_out.
    kernel_size, strides, dilation_rate : int or (h, w)
    padding : {"valid", "same", "same_lower"}, int, (ph, pw) or ((top, bottom), (left, right))
        What is cropped, as in :func:`pyconv.conv2d_transpose`.
    output_padding : int or (h, w), default 0
        Rows and columns more at the bottom and at the right.
    groups : int, default 1
        Must divide the input's channels and `filters`.
    activation, use_bias, kernel_initializer, bias_initializer : see :class:`Conv2D`

    Raises
    ------
    ValueError, TypeError
        For a bad argument at once, for one that does not suit the input when the model is built.

    Notes
    -----
    (H, W, C_in) -> (OH, OW, filters), where "same" makes OH = H * strides; `w` is
    (KH, KW, filters // groups, C_in), `b` (filters,). Where `strides` is larger than the kernel, Keras's
    "valid" adds what `output_padding` of the difference adds here.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2DTranspose(8, 4, strides=2, padding="same")
    >>> layer.build((7, 7, 16), np.random.default_rng(0)), layer.params["w"].shape
    ((14, 14, 8), (4, 4, 8, 16))
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        output_padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
    ) -> None:
        self.filters = integer(filters, "filters", least=1)
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = padding_of(padding)
        self.output_padding = pair(output_padding, "output_padding", least=0)
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self.groups = integer(groups, "groups", least=1)
        self._set_weights_config(activation, use_bias, kernel_initializer, bias_initializer)

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
            "output_padding": self.output_padding,
            "dilation": self.dilation_rate,
            "groups": self.groups,
        }
        taps, outputs = math.prod(self.kernel_size), self.filters // self.groups
        return self._initial(
            (*self.kernel_size, outputs, c_in), taps * c_in // self.groups, taps * outputs,
            self.filters, rng,
        )

    def forward(self, x: Array, training: bool) -> Array:
        w, b = self.params["w"], self.params.get("b")
        y = conv2d_transpose(x, w, b, activation=self.activation, **self._options)
        if training:
            self.cache = x, y
        return y

    def _gradients(self, x: Array, dy: Array, need: tuple[str, ...]) -> tuple[Array | None, ...]:
        return conv2d_transpose_backward(dy, x, self.params["w"], need=need, **self._options)

    def plan_with(
        self, program: Program, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool
    ) -> Value:
        return program.transposed_convolution(x, params, grads, relu, **self._options)
