"""Operations and their gradients on NumPy arrays: check, allocate, call one kernel entry.

Images are NHWC, filters HWIO, numbers float32 or float64 (all arrays of a call the same). Any layout of
an array works; one that is not C-contiguous is copied once. Inputs are never written to, and results
are the same bits for any number of threads.
"""

from typing import Any

import numpy as np

from .. import _cpu, _dispatch, _threads
from .._threads import get_num_threads, set_num_threads, threads
from .._version import __version__
from ._plans import set_algorithm
from .activations import (
    dropout,
    dropout_backward,
    elu,
    elu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from .convolution import (
    conv2d,
    conv2d_algorithm,
    conv2d_backward,
    conv2d_max_pool2d,
    conv2d_max_pool2d_backward,
)
from .dense_layers import (
    add,  # noqa: F401  (for layers)
    dense,
    dense_backward,
)
from .losses import binary_cross_entropy, mean_squared_error, softmax_cross_entropy
from .normalization import (
    batch_norm,
    batch_norm_backward,
    fold_batch_norm,  # noqa: F401  (for fusion)
)
from .optimize import adam_step, rmsprop_step, sgd_step
from .pooling import (
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    global_max_pool2d,
    global_max_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from .transposed import conv2d_transpose, conv2d_transpose_backward

__all__ = [
    "adam_step", "avg_pool2d", "avg_pool2d_backward", "batch_norm", "batch_norm_backward",
    "binary_cross_entropy", "conv2d", "conv2d_algorithm", "conv2d_backward", "conv2d_max_pool2d",
    "conv2d_max_pool2d_backward", "conv2d_transpose", "conv2d_transpose_backward", "dense",
    "dense_backward", "dropout", "dropout_backward", "elu", "elu_backward", "get_num_threads",
    "global_avg_pool2d", "global_avg_pool2d_backward", "global_max_pool2d",
    "global_max_pool2d_backward", "info", "leaky_relu", "leaky_relu_backward", "max_pool2d",
    "max_pool2d_backward", "mean_squared_error", "relu", "relu_backward", "rmsprop_step",
    "set_algorithm", "set_num_threads", "sgd_step", "sigmoid", "sigmoid_backward", "softmax",
    "softmax_backward", "softmax_cross_entropy", "tanh", "tanh_backward", "threads",
]


def info() -> dict[str, Any]:
    """What runs: version, instruction set, kernels, threads, OpenMP, compiler.

    Returns
    -------
    dict
        "version", "isa", "available_isa", "threads", "cpus", "openmp", "compiler", "numpy".
    """
    return {
        "version": __version__,
        "isa": _dispatch.active.isa,
        "available_isa": _dispatch.available_kernels(),
        "threads": get_num_threads(),
        "cpus": _threads.available_cpus(),
        "openmp": _cpu.openmp_version(),
        "compiler": _cpu.compiler_version(),
        "numpy": np.__version__,
    }
