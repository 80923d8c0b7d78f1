"""Layers: parameters, and the cache that the backward pass needs. Names and arguments are Keras's.

One subject a file: `base` (the life of a layer), `weighted`, `pooling`, `activations`, `reshaping`.
"""

from .activations import Activation, Dropout, ReLU
from .base import Array, Layer, Shape
from .pooling import AveragePooling2D, GlobalAveragePooling2D, MaxPooling2D
from .reshaping import Flatten, Rescaling, ZeroPadding2D
from .weighted import Conv2D, Dense, DepthwiseConv2D

__all__ = [
    "Activation", "Array", "AveragePooling2D", "Conv2D", "Dense", "DepthwiseConv2D", "Dropout",
    "Flatten", "GlobalAveragePooling2D", "Layer", "MaxPooling2D", "ReLU", "Rescaling", "Shape",
    "ZeroPadding2D",
]
