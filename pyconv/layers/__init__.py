"""Layers: parameters, and the cache that the backward pass needs. Names and arguments are Keras's.

One subject a file: `base` (the life of a layer), `weighted`, `normalization`, `pooling`,
`activations`, `reshaping`, `residual`.
"""

from .activations import Activation, Dropout, ReLU
from .base import LAYERS, Array, Layer, Shape
from .normalization import BatchNormalization
from .pooling import AveragePooling2D, GlobalAveragePooling2D, MaxPooling2D
from .reshaping import Flatten, Rescaling, ZeroPadding2D
from .residual import Residual
from .weighted import Conv2D, Dense, DepthwiseConv2D

__all__ = [
    "Activation", "Array", "AveragePooling2D", "BatchNormalization", "Conv2D", "Dense",
    "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "Layer", "MaxPooling2D",
    "ReLU", "Rescaling", "Residual", "Shape", "ZeroPadding2D",
]

LAYERS |= {
    name: value for name, value in globals().items()
    if isinstance(value, type) and issubclass(value, Layer)
}
