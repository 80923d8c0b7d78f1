"""What all layers share, and the life of one.

Driven by :class:`pyconv.model.Sequential`:

    build(input_shape, rng) -> output_shape    draws `params`, a dict of arrays, and allots `grads`
    bind(params, grads)                        moves them into the model's two flat buffers
    forward(x, training) -> y                  a training pass keeps in `cache` what backward needs
    backward(dy, need_dx) -> dx or None        fills `grads`, frees `cache`
    plan(program, x) -> y                      adds what the layer does to a compiled step

A forward pass with ``training=False`` writes nothing to the layer, so that several threads can
predict with one model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import Configurable, choose

if TYPE_CHECKING:
    from ..program import Program, Value

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
        self.bind(params := self.initial_params(input_shape, rng), zeros_like(params))
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

    def plan(self, program: Program, x: Value) -> Value:
        """Add to `program` what `forward` and `backward` do; a layer need not define it."""
        return program.call(self, x, (x.shape[0], *(self.output_shape or ())))

    def take_cache(self) -> Any:
        """What the last training pass kept; it is freed when its one reader is done."""
        cache, self.cache = self.cache, None
        return cache


def zeros_like(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def activation_of(value: str | None) -> str | None:
    """None or "relu", the activations that the kernels fuse."""
    if value == "softmax":
        raise ValueError(
            "`activation` is 'softmax', which no layer with weights applies: leave it out. Networks end "
            "in logits; the loss 'softmax_cross_entropy' and predict_proba apply the softmax"
        )
    if value in ("leaky_relu", "elu", "sigmoid", "tanh"):
        raise ValueError(
            f"`activation` is {value!r}, which layers with weights do not fuse; put "
            f"Activation({value!r}) behind the layer"
        )
    return None if choose(value, "activation", (None, "linear", "relu")) == "linear" else value


def padding_of(value: Any) -> Any:
    return choose(value, "padding", PADDINGS) if isinstance(value, str) else value


def images(layer: Layer, input_shape: Shape) -> Shape:
    """`input_shape` if it is (H, W, C)."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{type(layer).__name__} takes images (H, W, C), but its input has shape {input_shape}"
        )
    return input_shape
