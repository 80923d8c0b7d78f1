"""Layers: parameters, and the cache that the backward pass needs. Names and arguments are Keras's.

One subject a file: `base` (the life of a layer), `weighted`, `transposed`, `normalization`, `pooling`,
`activations`, `reshaping`, `residual`.
"""

from .activations import ELU, Activation, Dropout, LeakyReLU, ReLU
from .base import LAYERS, Array, Layer, Shape
from .normalization import BatchNormalization
from .pooling import (
    AveragePooling2D,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    MaxPooling2D,
)
from .reshaping import Flatten, Rescaling, ZeroPadding2D
from .residual import Residual
from .transposed import Conv2DTranspose
from .weighted import Conv2D, Dense, DepthwiseConv2D

__all__ = [
    "ELU", "Activation", "Array", "AveragePooling2D", "BatchNormalization", "Conv2D",
    "Conv2DTranspose", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D",
    "GlobalMaxPooling2D", "Layer", "LeakyReLU", "MaxPooling2D", "ReLU", "Rescaling", "Residual",
    "Shape", "ZeroPadding2D",
]

LAYERS |= {
    name: value for name, value in globals().items()
    if isinstance(value, type) and issubclass(value, Layer)
}
