"""Small convolutional networks on the CPU.

Who calls whom, downwards only::

    cli
    training, plots, images, bench
    course, zoo
    model
    layers, callbacks, optimizers, losses, data
    functional                     check, allocate, call one kernel entry
    geometry, _threads, _dispatch  sizes and pads; thread counts; which kernels
    _kernels*                      every loop over values, compiled

Operations on arrays are imported here at once. What stands above them is imported when it is first
used, so that ``import pyconv`` costs little more than ``import numpy``.
"""

import os
import sys
from importlib import import_module
from typing import Any

from . import _wait  # noqa: F401  (before libgomp is loaded)
from ._version import __version__

try:
    from .functional import *  # noqa: F403
    from .functional import __all__ as _operations
except ImportError as error:
    # The command says it in one line, and this is imported before pyconv.cli can catch anything.
    command = os.path.basename(sys.argv[0]).removesuffix(".exe")
    if command == "pyconv" or sys.orig_argv[1:3] == ["-m", "pyconv"]:
        sys.exit(f"pyconv: error: {error}")
    raise

_LATER = {
    "course": (
        "conv_backward", "conv_forward", "conv_single_step", "create_mask_from_window",
        "distribute_value", "pool_backward", "pool_forward", "zero_pad",
    ),
    "layers": (
        "ELU", "Activation", "AveragePooling2D", "BatchNormalization", "Conv2D", "Conv2DTranspose",
        "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D",
        "GlobalMaxPooling2D", "LeakyReLU", "MaxPooling2D", "ReLU", "Rescaling", "Residual",
        "ZeroPadding2D",
    ),
    "model": ("Sequential", "load_model"),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
}
_MODULES = ("bench", "callbacks", "cli", "course", "data", "functional", "geometry", "images",
            "layers", "losses", "model", "optimizers", "plots", "signs", "training", "zoo")
_HOME = {name: module for module, names in _LATER.items() for name in names}

__all__ = ["__version__", *_operations, *_HOME]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pyconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_HOME})
