"""Layers: parameters, and the cache that the backward pass needs. Names and arguments are Keras's.

One subject a file: `base` (the life of a layer), `weighted`, `transposed`, `pooling`, `activations`,
`reshaping`.
"""

from .activations import ELU, Activation, Dropout, LeakyReLU, ReLU
from .base import Array, Layer, Shape
from .pooling import (
    AveragePooling2D,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    MaxPooling2D,
)
from .reshaping import Flatten, Rescaling, ZeroPadding2D
from .transposed import Conv2DTranspose
from .weighted import Conv2D, Dense, DepthwiseConv2D

__all__ = [
    "ELU", "Activation", "Array", "AveragePooling2D", "Conv2D", "Conv2DTranspose", "Dense",
    "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Layer",
    "LeakyReLU", "MaxPooling2D", "ReLU", "Rescaling", "Shape", "ZeroPadding2D",
]
