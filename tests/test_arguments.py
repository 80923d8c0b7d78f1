"""Bad arguments: a ValueError or TypeError that names operation, argument, value, shapes, remedy.

One row a mistake: the operation, what is changed in a call that works, the error and its text. The
error comes before anything is allocated, and the operation works as before afterwards.
"""

import re

import numpy as np
import pytest
from operations import digest

import pyconv
from pyconv import functional


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def flat(size=5, dtype=np.float32):
    return np.ones(size, dtype)


VALID = {
    "conv2d": lambda: {"x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 4, 8), "b": zeros(8)},
    "conv2d_backward": lambda: {
        "dy": zeros(2, 4, 5, 8), "x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 4, 8)
    },
    "conv2d_max_pool2d": lambda: {
        "x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 4, 8), "b": zeros(8), "window": 2
    },
    "conv2d_max_pool2d_backward": lambda: {
        "dy": zeros(2, 2, 2, 8), "indices": zeros(2, 2, 2, 8, dtype=np.int32),
        "x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 4, 8), "window": 2,
    },
    "conv2d_algorithm": lambda: {"x_shape": (2, 6, 7, 4), "w_shape": (3, 3, 4, 8)},
    "max_pool2d": lambda: {"x": zeros(2, 6, 7, 4), "window": 2},
    "max_pool2d_backward": lambda: {
        "dy": zeros(2, 3, 3, 4), "indices": zeros(2, 3, 3, 4, dtype=np.int32),
        "x_shape": (2, 6, 7, 4),
    },
    "avg_pool2d": lambda: {"x": zeros(2, 6, 7, 4), "window": 2},
    "avg_pool2d_backward": lambda: {
        "dy": zeros(2, 3, 3, 4), "x_shape": (2, 6, 7, 4), "window": 2
    },
    "dense": lambda: {"x": zeros(3, 5), "w": zeros(5, 2), "b": zeros(2)},
    "dense_backward": lambda: {"dy": zeros(3, 2), "x": zeros(3, 5), "w": zeros(5, 2)},
    "relu": lambda: {"x": zeros(3, 5)},
    "relu_backward": lambda: {"dy": zeros(3, 5), "y": zeros(3, 5)},
    "softmax": lambda: {"x": zeros(3, 5)},
    "softmax_cross_entropy": lambda: {"logits": zeros(3, 5), "labels": np.array([0, 4, 1])},
    "conv2d_transpose": lambda: {"x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 8, 4), "b": zeros(8)},
    "conv2d_transpose_backward": lambda: {
        "dy": zeros(2, 8, 9, 8), "x": zeros(2, 6, 7, 4), "w": zeros(3, 3, 8, 4)
    },
    "global_max_pool2d": lambda: {"x": zeros(2, 6, 7, 4)},
    "global_avg_pool2d": lambda: {"x": zeros(2, 6, 7, 4)},
    "global_max_pool2d_backward": lambda: {
        "dy": zeros(2, 4), "indices": zeros(2, 4, dtype=np.int32), "x_shape": (2, 6, 7, 4)
    },
    "global_avg_pool2d_backward": lambda: {"dy": zeros(2, 4), "x_shape": (2, 6, 7, 4)},
    "leaky_relu": lambda: {"x": zeros(3, 5)},
    "elu": lambda: {"x": zeros(3, 5)},
    "sigmoid": lambda: {"x": zeros(3, 5)},
    "tanh_backward": lambda: {"dy": zeros(3, 5), "y": zeros(3, 5)},
    "elu_backward": lambda: {"dy": zeros(3, 5), "y": zeros(3, 5)},
    "softmax_backward": lambda: {"dy": zeros(3, 5), "y": zeros(3, 5)},
    "dropout": lambda: {"x": zeros(3, 5), "rate": 0.5, "seed": 1},
    "dropout_backward": lambda: {"dy": zeros(3, 5), "rate": 0.5, "seed": 1},
    "binary_cross_entropy": lambda: {"logits": zeros(3, 5), "labels": zeros(3, 5)},
    "mean_squared_error": lambda: {"y": zeros(3, 5), "targets": zeros(3, 5)},
    "adam_step": lambda: {
        "param": flat(), "grad": flat(), "m": flat(), "v": flat(), "step": 1, "learning_rate": 0.1
    },
    "sgd_step": lambda: {
        "param": flat(), "grad": flat(), "velocity": flat(), "learning_rate": 0.1
    },
    "rmsprop_step": lambda: {
        "param": flat(), "grad": flat(), "v": flat(), "velocity": flat(), "learning_rate": 0.1
    },
}  # fmt: skip

NOT_FLOAT = (
    "`{0}` has dtype {1} (shape {2}); expected float32 or float64. "
    "Use {0}.astype(np.float32)"
)
NOT_THE_SAME = (
    "`{0}` has dtype float64 (shape {1}) but the first array has float32 (shape {2}); "
    "expected the same. Use {0}.astype(np.float32)"
)
NOT_INTEGER = "`{0}` is {1!r} ({2}); expected an integer"
FROM_ONE = "`{0}` is {1}; expected 1 to 2147483647"
X, W = "(2, 6, 7, 4)", "(3, 3, 4, 8)"

CONVOLUTION = [
    # Shapes that do not fit together.
    ({"x": zeros(2, 4, 6, 7)}, ValueError,
     f"`x` has 7 channels (shape (2, 4, 6, 7), NHWC) but `w` expects 4 (shape {W}, HWIO, groups=1)"
     ". Is `x` in NCHW order? Use np.moveaxis(x, 1, -1)"),
    ({"x": zeros(2, 6, 7, 3)}, ValueError,
     "`x` has 3 channels (shape (2, 6, 7, 3), NHWC) but `w` expects 4 "
     f"(shape {W}, HWIO, groups=1)"),
    ({"x": zeros(6, 7, 4)}, ValueError,
     "`x` has 3 dimensions (shape (6, 7, 4)); expected 4: (N, H, W, C_in). "
     "For a single image use x[None]"),
    ({"w": zeros(3, 4, 8)}, ValueError,
     "`w` has 3 dimensions (shape (3, 4, 8)); expected 4: (KH, KW, C_in // groups, C_out)"),
    ({"w": zeros(7, 7, 4, 8), "dilation": 2}, ValueError,
     "kernel 7x7 (`w` of shape (7, 7, 4, 8)) with `dilation` (2, 2) spans 13x13, more than the "
     f"padded input 6x7 (`x` of shape {X}, `padding` 'valid'); the output would be empty. "
     "Pad more"),
    ({"w": zeros(0, 3, 4, 8)}, ValueError, "`w` has size 0 along KH (shape (0, 3, 4, 8))"),
    ({"w": zeros(3, 3, 4, 0)}, ValueError, "`w` has size 0 along C_out (shape (3, 3, 4, 0))"),
    ({"x": zeros(2, 0, 7, 4)}, ValueError, "`x` has size 0 along H (shape (2, 0, 7, 4))"),
    ({"x": zeros(2, 6, 7, 0)}, ValueError, "`x` has size 0 along C_in (shape (2, 6, 7, 0))"),
    # dtypes
    ({"x": zeros(2, 6, 7, 4, dtype=np.uint8)}, TypeError, NOT_FLOAT.format("x", "uint8", X)),
    ({"x": zeros(2, 6, 7, 4, dtype=np.float16)}, TypeError, NOT_FLOAT.format("x", "float16", X)),
    ({"x": zeros(2, 6, 7, 4, dtype=complex)}, TypeError, NOT_FLOAT.format("x", "complex128", X)),
    ({"x": None}, TypeError, "`x` has dtype object"),
    ({"x": [[1.0], [1.0, 2.0]]}, (TypeError, ValueError), "`x`"),
    ({"w": zeros(3, 3, 4, 8, dtype=float)}, TypeError, NOT_THE_SAME.format("w", W, X)),
    # stride, dilation, groups, padding
    ({"stride": 0}, ValueError, FROM_ONE.format("stride", 0)),
    ({"stride": (1, -1)}, ValueError, FROM_ONE.format("stride", -1)),
    ({"stride": 2**40}, ValueError, FROM_ONE.format("stride", 2**40)),
    ({"stride": 1.5}, TypeError, NOT_INTEGER.format("stride", 1.5, "float")),
    ({"stride": "2"}, TypeError, NOT_INTEGER.format("stride", "2", "str")),
    ({"stride": None}, TypeError, NOT_INTEGER.format("stride", None, "NoneType")),
    ({"stride": True}, TypeError, NOT_INTEGER.format("stride", True, "bool")),
    ({"stride": (1, 2, 3)}, ValueError,
     "`stride` is (1, 2, 3); expected an int or a pair (h, w)"),
    ({"stride": {}}, TypeError, "`stride` is {}"),
    ({"dilation": 0}, ValueError, FROM_ONE.format("dilation", 0)),
    ({"dilation": "a"}, TypeError, NOT_INTEGER.format("dilation", "a", "str")),
    ({"groups": 0}, ValueError, FROM_ONE.format("groups", 0)),
    ({"groups": 3}, ValueError,
     f"`groups` is 3, which does not divide both the 4 channels of `x` (shape {X}, NHWC) and the 8 "
     f"of `w` (shape {W}, HWIO)"),
    ({"groups": 2}, ValueError,
     f"`x` has 4 channels (shape {X}, NHWC) but `w` expects 8 (shape {W}, HWIO, groups=2)"),
    ({"groups": (1, 1)}, TypeError, NOT_INTEGER.format("groups", (1, 1), "tuple")),
    ({"padding": "SAME"}, ValueError,
     "`padding` is 'SAME'; expected \"valid\", \"same\", \"same_lower\", an int, (h, w), or "
     "((top, bottom), (left, right))"),
    ({"padding": -1}, ValueError, "`padding` is -1; expected 0 to"),
    ({"padding": ((1, -1), (0, 0))}, ValueError, "`padding` is -1; expected 0 to"),
    ({"padding": 1.5}, TypeError, NOT_INTEGER.format("padding", 1.5, "float")),
    ({"padding": (1, 1, 1, 1)}, ValueError, "`padding` is (1, 1, 1, 1); expected"),
    ({"padding": ((1, 1), 1)}, (TypeError, ValueError), "`padding` is"),
    ({"padding": {1, 2}}, TypeError, "`padding` is {1, 2}"),
    ({"num_threads": 0}, ValueError, "`num_threads` is 0; expected 1 to"),
    ({"num_threads": "2"}, TypeError, "`num_threads` is '2' (str); expected an integer"),
]  # fmt: skip

NEED = "`need` is {!r}; expected some of (\"x\", \"w\", \"b\")"

POOLING = [
    ({"x": zeros(6, 7, 4)}, ValueError,
     "`x` has 3 dimensions (shape (6, 7, 4)); expected 4: (N, H, W, C). "
     "For a single image use x[None]"),
    ({"x": zeros(2, 6, 7, 4, dtype=int)}, TypeError, NOT_FLOAT.format("x", "int64", X)),
    ({"x": zeros(2, 6, 0, 4)}, ValueError, "`x` has size 0 along W (shape (2, 6, 0, 4))"),
    ({"window": 0}, ValueError, FROM_ONE.format("window", 0)),
    ({"window": (2, 2.0)}, TypeError, NOT_INTEGER.format("window", 2.0, "float")),
    ({"window": (1, 2, 3)}, ValueError, "`window` is (1, 2, 3); expected an int or a pair"),
    ({"window": 8}, ValueError,
     "`window` (8, 8) with `dilation` (1, 1) spans 8x8, more than the padded input 6x7 "
     f"(`x` of shape {X}, `padding` 'valid'); the output would be empty. "
     "Use a smaller window or more padding"),
    ({"padding": 2}, ValueError,
     f"`padding` 2 puts output 0 wholly into the padding of `x` (shape {X}). Use less padding"),
    ({"padding": ((0, 2), (0, 0)), "stride": 1}, ValueError,
     "`padding` ((0, 2), (0, 0)) puts output 6 wholly into the padding"),
    ({"stride": 0}, ValueError, FROM_ONE.format("stride", 0)),
    ({"dilation": 0}, ValueError, FROM_ONE.format("dilation", 0)),
    ({"ceil_mode": "yes"}, TypeError, "`ceil_mode` is 'yes'; expected True or False"),
    ({"num_threads": -1}, ValueError, "`num_threads` is -1; expected 1 to"),
]  # fmt: skip

V = "(3, 3, 8, 4)"
TRANSPOSED = [
    ({"x": zeros(2, 4, 6, 7)}, ValueError,
     "`x` has 7 channels (shape (2, 4, 6, 7), NHWC) but `w` expects 4 (shape (3, 3, 8, 4), "
     "(KH, KW, C_out // groups, C_in)). Is `x` in NCHW order? Use np.moveaxis(x, 1, -1)"),
    ({"w": zeros(3, 3, 4, 8)}, ValueError,
     "`x` has 4 channels (shape (2, 6, 7, 4), NHWC) but `w` expects 8 (shape (3, 3, 4, 8), "
     "(KH, KW, C_out // groups, C_in)). Are its last axes the other way around? "
     "Use np.swapaxes(w, 2, 3)"),
    ({"x": zeros(6, 7, 4)}, ValueError,
     "`x` has 3 dimensions (shape (6, 7, 4)); expected 4: (N, H, W, C_in). "
     "For a single image use x[None]"),
    ({"w": zeros(3, 8, 4)}, ValueError,
     "`w` has 3 dimensions (shape (3, 8, 4)); expected 4: (KH, KW, C_out // groups, C_in)"),
    ({"x": zeros(2, 6, 7, 4, dtype=np.uint8)}, TypeError, NOT_FLOAT.format("x", "uint8", X)),
    ({"w": zeros(3, 3, 8, 4, dtype=float)}, TypeError, NOT_THE_SAME.format("w", V, X)),
    ({"w": zeros(3, 0, 8, 4)}, ValueError, "`w` has size 0 along KW (shape (3, 0, 8, 4))"),
    ({"groups": 3}, ValueError,
     f"`groups` is 3, which does not divide the 4 channels of `x` (shape {X}, NHWC)"),
    ({"stride": 0}, ValueError, FROM_ONE.format("stride", 0)),
    ({"dilation": (1, 0)}, ValueError, FROM_ONE.format("dilation", 0)),
    ({"output_padding": -1}, ValueError, "`output_padding` is -1; expected 0 to 2147483647"),
    ({"output_padding": 1.0}, TypeError, NOT_INTEGER.format("output_padding", 1.0, "float")),
    ({"output_padding": (1, 2, 3)}, ValueError,
     "`output_padding` is (1, 2, 3); expected an int or a pair (h, w)"),
    ({"padding": "full"}, ValueError, "`padding` is 'full'; expected \"valid\", \"same\""),
    ({"padding": -1}, ValueError, "`padding` is -1; expected 0 to"),
    ({"padding": 4}, ValueError,
     f"`padding` 4 crops all of the 8x9 pixels that `x` of shape {X} and `w` of shape {V} give; "
     "the output would be empty. Use less padding"),
]  # fmt: skip

GLOBAL = "expected (N, H, W, C) with H, W and C 1 or more"
NUMBER = "expected a number in [0, "

LABELS = (
    "expected integers of shape (3,) or one-hot rows of shape (3, 5) "
    "for `logits` of shape (3, 5)"
)
LIKE_DY = "expected (2, 3, 3, 4), like `dy`, and int32"

BAD = [
    *(("conv2d", *row) for row in CONVOLUTION),
    ("conv2d", {"b": zeros(3)}, ValueError,
     "`b` has shape (3,); expected (8,), one number for each of `w`'s 8 output channels (`w` of "
     f"shape {W})"),
    ("conv2d", {"b": zeros(1, 8)}, ValueError, "`b` has shape (1, 8); expected (8,)"),
    ("conv2d", {"b": zeros(8, dtype=float)}, TypeError, NOT_THE_SAME.format("b", "(8,)", X)),
    ("conv2d", {"activation": "tanh"}, ValueError,
     "`activation` is 'tanh'; expected None or \"relu\""),
    ("conv2d", {"out": []}, TypeError, "`out` is a list; expected an ndarray"),
    ("conv2d", {"out": zeros(2, 4, 4, 8)}, ValueError,
     "`out` has shape (2, 4, 4, 8) and dtype float32; expected (2, 4, 5, 8) and float32"),
    ("conv2d", {"out": zeros(2, 4, 5, 8, dtype=float)}, ValueError,
     "`out` has shape (2, 4, 5, 8) and dtype float64; expected (2, 4, 5, 8) and float32"),
    ("conv2d", {"out": zeros(8, 5, 4, 2).T}, ValueError,
     "`out` of shape (2, 4, 5, 8) is not a writeable C-contiguous array"),
    ("conv2d", {"out": np.broadcast_to(zeros(1), (2, 4, 5, 8))}, ValueError,
     "`out` of shape (2, 4, 5, 8) is not a writeable C-contiguous array"),
    *(("conv2d_backward", *row) for row in CONVOLUTION),
    ("conv2d_backward", {"dy": zeros(2, 3, 5, 8)}, ValueError,
     "`dy` has shape (2, 3, 5, 8); expected (2, 4, 5, 8), the output's for `x` of shape "
     f"{X} and `w` of shape {W}"),
    ("conv2d_backward", {"dy": zeros(2, 4, 5, 8, dtype=float)}, TypeError,
     NOT_THE_SAME.format("dy", "(2, 4, 5, 8)", X)),
    ("conv2d_backward", {"need": ("x", "q")}, ValueError, NEED.format(("x", "q"))),
    ("conv2d_backward", {"need": "xw"}, ValueError, NEED.format("xw")),
    ("conv2d_backward", {"need": None}, (TypeError, ValueError), NEED.format(None)),
    ("conv2d_backward", {"need": ([],)}, (TypeError, ValueError), NEED.format(([],))),

    *((operation, *row) for row in CONVOLUTION
      for operation in ("conv2d_max_pool2d", "conv2d_max_pool2d_backward")),
    ("conv2d_max_pool2d", {"b": zeros(3)}, ValueError, "`b` has shape (3,); expected (8,), one number"),
    ("conv2d_max_pool2d", {"activation": "elu"}, ValueError,
     "`activation` is 'elu'; expected None or \"relu\""),
    ("conv2d_max_pool2d", {"window": 0}, ValueError, FROM_ONE.format("window", 0)),
    ("conv2d_max_pool2d", {"window": 5}, ValueError,
     "`window` (5, 5) with `dilation` (1, 1) spans 5x5, more than the padded input 4x5"),
    ("conv2d_max_pool2d", {"pool_stride": 0}, ValueError, FROM_ONE.format("stride", 0)),
    ("conv2d_max_pool2d", {"pool_padding": 2}, ValueError,
     "`padding` 2 puts output 0 wholly into the padding of `x` (shape (2, 4, 5, 8))"),
    ("conv2d_max_pool2d_backward", {"dy": zeros(2, 4, 5, 8)}, ValueError,
     "`dy` has shape (2, 4, 5, 8); expected (2, 2, 2, 8), the output's for `x` of shape "
     f"{X} and `w` of shape {W}"),
    ("conv2d_max_pool2d_backward", {"indices": zeros(2, 2, 2, 8, dtype=np.int64)}, ValueError,
     "`indices` has shape (2, 2, 2, 8) and dtype int64; expected (2, 2, 2, 8), like `dy`, and int32"),
    ("conv2d_max_pool2d_backward", {"indices": np.full((2, 2, 2, 8), 20, np.int32)}, ValueError,
     "reach from 20 to 20, outside the 4x5 pixels of"),
    ("conv2d_max_pool2d_backward", {"indices": np.full((2, 2, 2, 8), -2, np.int32)}, ValueError,
     "reach from -2 to -2, outside the 4x5 pixels of"),
    ("conv2d_max_pool2d_backward", {"need": ("y",)}, ValueError, NEED.format(("y",))),
    ("conv2d_algorithm", {"direction": "x"}, ValueError,
     "`direction` is 'x'; expected \"y\", \"dx\" or \"dw\""),
    ("conv2d_algorithm", {"x_shape": (6, 7, 4)}, ValueError, "`x` has 3 dimensions (shape (6, 7, 4))"),
    ("conv2d_algorithm", {"groups": 3}, ValueError, "`groups` is 3, which does not divide"),

    *(("max_pool2d", *row) for row in POOLING),
    *(("avg_pool2d", *row) for row in POOLING),
    ("max_pool2d", {"return_indices": "no"}, TypeError,
     "`return_indices` is 'no'; expected True or False"),
    ("avg_pool2d", {"count_include_pad": 1}, TypeError,
     "`count_include_pad` is 1; expected True or False"),
    ("max_pool2d_backward", {"indices": zeros(2, 3, 3, 4, dtype=np.int64)}, ValueError,
     f"`indices` has shape (2, 3, 3, 4) and dtype int64; {LIKE_DY}"),
    ("max_pool2d_backward", {"indices": zeros(2, 2, 3, 4, dtype=np.int32)}, ValueError,
     f"`indices` has shape (2, 2, 3, 4) and dtype int32; {LIKE_DY}"),
    ("max_pool2d_backward", {"indices": np.full((2, 3, 3, 4), 42, np.int32)}, ValueError,
     "reach from 42 to 42, outside the 6x7 pixels of `x_shape` (2, 6, 7, 4)"),
    ("max_pool2d_backward", {"indices": np.full((2, 3, 3, 4), -1, np.int32)}, ValueError,
     "reach from -1 to -1, outside the 6x7 pixels of `x_shape` (2, 6, 7, 4)"),
    ("max_pool2d_backward", {"x_shape": (2, 6, 7)}, ValueError,
     "`x_shape` is (2, 6, 7); expected (N, H, W, C)"),
    ("max_pool2d_backward", {"x_shape": 7}, TypeError, "`x_shape` is 7; expected (N, H, W, C)"),
    ("max_pool2d_backward", {"x_shape": ("a", 6, 7, 4)}, (TypeError, ValueError), "`x_shape` is"),
    ("max_pool2d_backward", {"x_shape": (2, 6.5, 7, 4)}, (TypeError, ValueError), "`x_shape` is"),
    ("max_pool2d_backward", {"x_shape": (3, 6, 7, 4)}, ValueError,
     "`dy` has shape (2, 3, 3, 4); expected (3, OH, OW, 4) for `x_shape` (3, 6, 7, 4)"),
    ("max_pool2d_backward", {"x_shape": (2, 6, 7, 5)}, ValueError,
     "`dy` has shape (2, 3, 3, 4); expected (2, OH, OW, 5) for `x_shape` (2, 6, 7, 5)"),
    ("avg_pool2d_backward", {"window": 3}, ValueError,
     "`dy` has shape (2, 3, 3, 4); expected (2, 2, 2, 4), the output's for `x_shape` (2, 6, 7, 4)"),
    ("avg_pool2d_backward", {"x_shape": (2, 6, 7)}, ValueError,
     "`x_shape` is (2, 6, 7); expected (N, H, W, C)"),

    ("dense", {"w": zeros(4, 2)}, ValueError,
     "`x` has shape (3, 5) and `w` (4, 2); expected (N, C_in) and (C_in, C_out)"),
    ("dense", {"x": zeros(2, 6, 7, 4)}, ValueError,
     "`x` has shape (2, 6, 7, 4) and `w` (5, 2); expected (N, C_in) and (C_in, C_out), C_in and C_out "
     "1 or more. For images use x.reshape(len(x), -1)"),
    ("dense", {"w": zeros(5, 2, dtype=float)}, TypeError,
     NOT_THE_SAME.format("w", "(5, 2)", "(3, 5)")),
    ("dense", {"b": zeros(3)}, ValueError,
     "`b` has shape (3,); expected (2,), one number for each of `w`'s 2 outputs "
     "(`w` of shape (5, 2))"),
    ("dense", {"activation": "elu"}, ValueError,
     "`activation` is 'elu'; expected None or \"relu\""),
    ("dense", {"x": zeros(3, 0), "w": zeros(0, 2)}, ValueError, "`x` has shape (3, 0)"),
    ("dense_backward", {"dy": zeros(3, 3)}, ValueError,
     "`dy` has shape (3, 3); expected (3, 2), the output's for `x` of shape (3, 5) and `w` of "
     "shape (5, 2)"),
    ("dense_backward", {"need": ("y",)}, ValueError, NEED.format(("y",))),
    ("relu", {"x": zeros(3, 5, dtype=int)}, TypeError, NOT_FLOAT.format("x", "int64", "(3, 5)")),
    ("relu_backward", {"dy": zeros(2, 5)}, ValueError,
     "`dy` has shape (2, 5); expected (3, 5), like `y`"),
    ("softmax", {"x": zeros(3, 0)}, ValueError,
     "`x` has shape (3, 0); expected (..., C) with C >= 1"),
    ("softmax_cross_entropy", {"logits": zeros(3)}, ValueError,
     "`logits` has shape (3,); expected (N, C) with C >= 1"),
    ("softmax_cross_entropy", {"logits": zeros(3, 5, dtype=int)}, TypeError,
     NOT_FLOAT.format("logits", "int64", "(3, 5)")),
    ("softmax_cross_entropy", {"labels": np.array([0, 5, 1])}, ValueError,
     "`labels` (shape (3,)) reach from 0 to 5; expected 0 to 4 for `logits` of shape (3, 5)"),
    ("softmax_cross_entropy", {"labels": np.array([0, -1, 1])}, ValueError,
     "`labels` (shape (3,)) reach from -1 to 1; expected 0 to 4 for `logits` of shape (3, 5)"),
    ("softmax_cross_entropy", {"labels": np.array([0, 1])}, ValueError,
     f"`labels` has shape (2,) and dtype int64; {LABELS}"),
    ("softmax_cross_entropy", {"labels": np.array([0.0, 1.0, 2.0])}, ValueError,
     f"`labels` has shape (3,) and dtype float64; {LABELS}"),
    ("softmax_cross_entropy", {"labels": np.eye(4)[:3]}, ValueError,
     f"`labels` has shape (3, 4) and dtype float64; {LABELS}"),

    ("softmax_cross_entropy", {"label_smoothing": 1}, ValueError,
     f"`label_smoothing` is 1; {NUMBER}1)"),
    ("softmax_cross_entropy", {"label_smoothing": "a"}, TypeError,
     f"`label_smoothing` is 'a' (str); {NUMBER}1)"),
    ("softmax_cross_entropy", {"sample_weight": np.ones(2)}, ValueError,
     "`sample_weight` has shape (2,) and dtype float64; expected (3,), a number for each example"),
    ("softmax_cross_entropy", {"class_weight": np.ones(4)}, ValueError,
     "`class_weight` has shape (4,) and dtype float64; expected (5,), a number for each class"),
    ("softmax_cross_entropy", {"class_weight": {5: 1.0}}, ValueError,
     "`class_weight` names the class 5; expected 0 to 4"),
    ("softmax_cross_entropy", {"class_weight": {"a": 1.0}}, ValueError,
     "`class_weight` names the class 'a'; expected 0 to 4"),
    ("softmax_cross_entropy", {"class_weight": {1: -1}}, ValueError,
     "`class_weight` has -1 for class 1; expected 0 or more"),

    *((name, *row) for name in ("conv2d_transpose", "conv2d_transpose_backward")
      for row in TRANSPOSED),
    ("conv2d_transpose", {"b": zeros(4)}, ValueError,
     "`b` has shape (4,); expected (8,), one number for each of the 8 output channels (`w` of "
     f"shape {V}, groups=1)"),
    ("conv2d_transpose", {"activation": "elu"}, ValueError,
     "`activation` is 'elu'; expected None or \"relu\""),
    ("conv2d_transpose_backward", {"dy": zeros(2, 6, 7, 8)}, ValueError,
     f"`dy` has shape (2, 6, 7, 8); expected (2, 8, 9, 8), the output's for `x` of shape {X} and "
     f"`w` of shape {V}"),
    ("conv2d_transpose_backward", {"need": "w"}, ValueError, NEED.format("w")),

    ("global_max_pool2d", {"x": zeros(6, 7, 4)}, ValueError, f"`x` has shape (6, 7, 4); {GLOBAL}"),
    ("global_max_pool2d", {"return_indices": 1}, TypeError,
     "`return_indices` is 1; expected True or False"),
    ("global_avg_pool2d", {"x": zeros(2, 0, 7, 4)}, ValueError,
     f"`x` has shape (2, 0, 7, 4); {GLOBAL}"),
    ("global_avg_pool2d", {"x": zeros(2, 6, 7, 4, dtype=int)}, TypeError,
     NOT_FLOAT.format("x", "int64", X)),
    ("global_avg_pool2d_backward", {"dy": zeros(2, 5)}, ValueError,
     "`dy` has shape (2, 5); expected (2, 4), (N, C) for `x_shape` (2, 6, 7, 4)"),
    ("global_avg_pool2d_backward", {"x_shape": (2, 4)}, ValueError,
     "`x_shape` is (2, 4); expected (N, H, W, C)"),
    ("global_max_pool2d_backward", {"indices": np.full((2, 4), 42, np.int32)}, ValueError,
     "reach from 42 to 42, outside the 6x7 pixels of `x_shape` (2, 6, 7, 4)"),
    ("global_max_pool2d_backward", {"indices": zeros(2, 4)}, ValueError,
     "`indices` has shape (2, 4) and dtype float32; expected (2, 4), like `dy`, and int32"),

    ("leaky_relu", {"negative_slope": -0.1}, ValueError, f"`negative_slope` is -0.1; {NUMBER}inf)"),
    ("leaky_relu", {"negative_slope": float("nan")}, ValueError, "`negative_slope` is nan"),
    ("elu", {"alpha": "1"}, TypeError, f"`alpha` is '1' (str); {NUMBER}inf)"),
    ("elu_backward", {"alpha": -1}, ValueError, f"`alpha` is -1; {NUMBER}inf)"),
    ("sigmoid", {"x": zeros(3, 5, dtype=int)}, TypeError, NOT_FLOAT.format("x", "int64", "(3, 5)")),
    ("tanh_backward", {"dy": zeros(5, 3)}, ValueError,
     "`dy` has shape (5, 3); expected (3, 5), like `y`"),
    ("softmax_backward", {"dy": zeros(5, 3)}, ValueError,
     "`dy` has shape (5, 3); expected (3, 5), like `y`"),
    ("softmax_backward", {"y": zeros(3, 0)}, ValueError,
     "`y` has shape (3, 0); expected (..., C) with C >= 1"),
    ("dropout", {"rate": 1}, ValueError, f"`rate` is 1; {NUMBER}1)"),
    ("dropout", {"seed": -1}, ValueError, "`seed` is -1; expected 0 to 18446744073709551615"),
    ("dropout", {"seed": 2**64}, ValueError, "`seed` is 18446744073709551616; expected 0 to"),
    ("dropout", {"seed": 0.5}, TypeError, NOT_INTEGER.format("seed", 0.5, "float")),
    ("dropout_backward", {"dy": zeros(3, 5, dtype=int)}, TypeError,
     NOT_FLOAT.format("dy", "int64", "(3, 5)")),
    ("binary_cross_entropy", {"labels": zeros(3)}, ValueError,
     "`labels` has shape (3,); expected (3, 5), like `logits`"),
    ("binary_cross_entropy", {"labels": [["a"] * 5] * 3}, TypeError,
     "`labels` has dtype <U1 (shape (3, 5)); expected numbers"),
    ("binary_cross_entropy", {"sample_weight": zeros(3, 5)}, ValueError,
     "`sample_weight` has shape (3, 5) and dtype float32; expected (3,)"),
    ("binary_cross_entropy", {"label_smoothing": -0.1}, ValueError,
     f"`label_smoothing` is -0.1; {NUMBER}1)"),
    ("mean_squared_error", {"y": np.float32(1)}, ValueError, "`y` has shape (); expected (N, ...)"),
    ("mean_squared_error", {"targets": zeros(3, 4)}, ValueError,
     "`targets` has shape (3, 4); expected (3, 5), like `y`"),

    ("adam_step", {"step": 0}, ValueError, "`step` is 0; expected 1 to "),
    ("adam_step", {"step": "1"}, TypeError, "`step` is '1'"),
    ("adam_step", {"learning_rate": "fast"}, TypeError, "`learning_rate` is 'fast'"),
    ("adam_step", {"grad": flat(3)}, ValueError, "`grad` has shape (3,) and dtype float32"),
    ("adam_step", {"m": flat(dtype=float)}, ValueError, "`m` has shape (5,) and dtype float64"),
    ("adam_step", {"param": zeros(3, 5)}, ValueError, "`param` has shape (3, 5)"),
    ("adam_step", {"param": [1.0]}, TypeError, "`param` is list"),
    ("adam_step", {"v": flat(10)[::2]}, ValueError, "`v` of shape (5,) has strides (8,)"),
    ("adam_step", {"v": np.broadcast_to(flat(1), 5)}, ValueError, "`v` of shape (5,)"),
    ("adam_step", {"weight_decay": "much"}, TypeError, "`weight_decay` is 'much'"),
    ("rmsprop_step", {"velocity": None, "momentum": 0.9}, ValueError,
     "`momentum` is 0.9, which needs a `velocity` array"),
    ("rmsprop_step", {"v": flat(3)}, ValueError, "`v` has shape (3,) and dtype float32"),
    ("rmsprop_step", {"rho": None}, TypeError, "`rho` is None"),
    ("sgd_step", {"velocity": None, "momentum": 0.9}, ValueError,
     "`momentum` is 0.9, which needs a `velocity` array"),
    ("sgd_step", {"velocity": flat(3)}, ValueError, "`velocity` has shape (3,)"),
    ("sgd_step", {"param": flat(10)[::2]}, ValueError, "`param` of shape (5,) has strides (8,)"),
]  # fmt: skip


def test_how_many_there_are():
    assert len(BAD) >= 250
    assert {operation for operation, *_ in BAD} == VALID.keys()


def results(operation):
    """The digest of a valid call's results, and of its arguments afterwards."""
    arguments = VALID[operation]()
    returned = getattr(functional, operation)(**arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return digest([np.asarray(value) for value in (*returned, *arguments.values())])


@pytest.mark.parametrize(
    ("operation", "changed", "error", "text"),
    BAD,
    ids=[f"{operation}-{'-'.join(changed)}" for operation, changed, _, _ in BAD],
)
def test_the_message_names_what_is_wrong(operation, changed, error, text):
    expected = results(operation)
    with pytest.raises(error, match=re.escape(text)) as caught:
        getattr(functional, operation)(**(VALID[operation]() | changed))
    if "num_threads" not in changed:  # the same setting for all operations
        assert str(caught.value).startswith(f"{operation}: ")
    assert results(operation) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"stride": (1.0, 1.0)},
        {"dilation": (True, True)},
        {"padding": ((0, 0), (0, 0.0))},
        {"padding": [[0, 0], [0, False]]},
    ],
    ids=str,
)
def test_a_valid_call_before_does_not_make_an_equal_number_valid(changed):
    """1 == 1.0 == True, which must not fool a cache of geometries."""
    valid = VALID["conv2d"]()
    plain = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
    pyconv.conv2d(**valid, **plain)
    with pytest.raises(TypeError, match="expected an integer"):
        pyconv.conv2d(**valid, **(plain | changed))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2]},
        {"stride": (np.int64(2), 1), "padding": np.int32(1)},
        {"padding": [[1, 0], [0, 1]]},
        {"padding": ([1, 0], (0, 1))},
    ],
    ids=str,
)
def test_lists_and_numpy_integers_are_integers_too(options):
    def plain(value):
        return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else int(value)

    rng = np.random.default_rng(0)
    x, w = rng.random((1, 5, 6, 2)), rng.random((2, 2, 2, 3))
    expected = pyconv.conv2d(x, w, **{name: plain(value) for name, value in options.items()})
    assert digest([pyconv.conv2d(x, w, **options)]) == digest([expected])


@pytest.mark.parametrize("flag", [True, np.True_])
def test_numpy_booleans_are_booleans_too(flag):
    x = np.random.default_rng(0).random((1, 5, 5, 1))
    options = {"stride": 2, "padding": 1}
    assert pyconv.avg_pool2d(x, 2, **options, ceil_mode=flag).shape == (1, 3, 3, 1)
    assert len(pyconv.max_pool2d(x, 2, **options, ceil_mode=flag, return_indices=flag)) == 2
    y = pyconv.avg_pool2d(x, 2, **options, count_include_pad=flag)
    assert y[0, 0, 0, 0] == x[0, 0, 0, 0] / 4


def test_out_may_not_overlap_an_input():
    memory = zeros(2 * 6 * 7 * 4 + 10)
    x, out = memory[:336].reshape(2, 6, 7, 4), memory[-320:].reshape(2, 4, 5, 8)
    with pytest.raises(ValueError, match=r"`out` of shape \(2, 4, 5, 8\) overlaps an input"):
        pyconv.conv2d(x, zeros(3, 3, 4, 8), out=out)


@pytest.mark.parametrize(
    ("operation", "changed"),
    [
        ("conv2d", {"b": zeros(3)}),
        ("conv2d", {"activation": "tanh"}),
        ("conv2d", {"num_threads": 0}),
        ("conv2d", {"out": zeros(1)}),
        ("conv2d_backward", {}),
        ("conv2d_backward", {"need": ("q",)}),
    ],
)
def test_errors_come_before_anything_is_allocated(operation, changed):
    """The output would be far larger than memory: allocating it first would be a MemoryError."""
    arguments = VALID[operation]() | {"padding": 2**24} | changed
    with pytest.raises(ValueError, match=f"{'|'.join(changed) or 'dy'}"):
        getattr(pyconv, operation)(**arguments)


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match="strides"):
        pyconv.conv2d(**VALID["conv2d"](), strides=2)
