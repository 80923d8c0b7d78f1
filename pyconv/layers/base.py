"""What all layers share, and the life of one.

Driven by :class:`pyconv.model.Sequential`:

    build(input_shape, rng) -> output_shape    draws `params`, a dict of arrays, and allots `grads`
    bind(params, grads, state)                 moves them into the model's two flat buffers
    forward(x, training) -> y                  a training pass keeps in `cache` what backward needs
    backward(dy, need_dx) -> dx or None        fills `grads`, frees `cache`
    plan(program, x) -> y                      adds what the layer does to a compiled step

A forward pass with ``training=False`` writes nothing to the layer, so that several threads can
predict with one model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import Configurable, choose
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
    state : dict of str to ndarray
        Arrays that belong to the layer's weights but are not trained, such as moving means.
    inner : sequence of Layer
        Layers that this one is made of.
    output_shape : tuple of int or None
        Shape of one output, without the batch axis; None until a model is built with the layer.
    """

    params: dict[str, Array]
    grads: dict[str, Array]
    state: dict[str, Array]
    inner: Sequence[Layer] = ()
    output_shape: Shape | None = None
    cache: Any = None

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Make the parameters for inputs of `input_shape` (no batch axis); the output's shape."""
        params = self.initial_params(input_shape, rng)
        self.bind(params, zeros_like(params), self.initial_state(input_shape))
        # An empty batch knows the output's shape, and meets every check of the operation.
        return self.forward(np.empty((0, *input_shape)), training=False).shape[1:]

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        """Initial values of the parameters, float64."""
        return {}

    def initial_state(self, input_shape: Shape) -> dict[str, Array]:
        """Initial values of what is not trained, float64."""
        return {}

    @property
    def weights(self) -> dict[str, Array]:
        """All arrays that a file keeps: the parameters, then the state."""
        return self.params | self.state

    def bind(
        self, params: dict[str, Array], grads: dict[str, Array], state: dict[str, Array]
    ) -> None:
        """Use these arrays, of the shapes made by `build`, as parameters, gradients and state."""
        self.params, self.grads, self.state = params, grads, state

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


# Layers by the names of their classes; `layers/__init__.py` fills it.
LAYERS: dict[str, type[Layer]] = {}


def describe(layer: Layer) -> dict[str, Any]:
    """What JSON can say of a layer: its class and its configuration.

    Raises
    ------
    TypeError
        If it is not pyconv's own.
    """
    name = type(layer).__name__
    if LAYERS.get(name) is not type(layer):
        raise TypeError(f"{type(layer)} is no layer of pyconv: it cannot be saved or copied")
    return {"class": name, "config": layer.get_config()}


def restored(description: dict[str, Any]) -> Layer:
    """A new layer as `describe` described it."""
    return LAYERS[choose(description["class"], "class", LAYERS)](**description["config"])


def checked_layers(layers: Iterable[Layer], name: str = "layers") -> list[Layer]:
    """`layers` as a list of at least one layer, none of them in use elsewhere."""
    if isinstance(layers, Layer):
        raise TypeError(f"`{name}` is a single layer; expected a list of layers")
    layers = list(layers)
    if not layers:
        raise ValueError(f"`{name}` is empty; a model has at least one layer")
    seen: list[Layer] = []
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"`{name}` holds {layer!r}; expected a layer, as in Conv2D(8, 3)")
        for each in (layer, *layer.inner):
            if each.output_shape is not None or any(each is other for other in seen):
                raise ValueError(
                    f"`{name}` holds at {i} a {type(each).__name__} that is in use already; "
                    "make a new layer for each place"
                )
            seen.append(each)
    return layers


def names_of(layers: Iterable[Layer]) -> list[str]:
    """Keras's names: conv2d, max_pooling2d, conv2d_1, ..."""
    seen: Counter[str] = Counter()
    names = []
    for layer in layers:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        names.append(f"{kind}_{seen[kind]}" if seen[kind] else kind)
        seen[kind] += 1
    return names


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
