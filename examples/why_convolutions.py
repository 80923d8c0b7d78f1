"""Why convolutions: six 5x5 filters have 456 parameters; a dense layer in their place, 14 million.

Two reasons, both read off the gradients. Parameters are shared: each weight of a filter is used at
every position of the output. Connections are sparse: each output depends on the few inputs under
its window.
Writes why_convolutions.md.
"""

import math
from collections.abc import Callable
from pathlib import Path

import _figures
import numpy as np

import pyconv

INPUT_SHAPE, OUTPUT_SHAPE = (32, 32, 3), (28, 28, 6)


def describe(layer, input_shape: tuple, output_shape: tuple, backward: Callable) -> tuple:
    """Return number of parameters, inputs that one output sees, and uses of one weight."""
    pyconv.Sequential([layer], input_shape=input_shape, seed=0)
    parameters = sum(array.size for array in layer.params.values())

    w = layer.params["w"]
    x = np.ones((1, *input_shape), np.float32)
    dy = np.ones((1, *output_shape), np.float32)
    _, dw, _ = backward(dy, x, w, need=("w",))  # of ones: one for each use of the weight
    dy.flat[1:] = 0
    dx, _, _ = backward(dy, x, w, need=("x",))  # not 0 where the first output looks
    return parameters, int(np.count_nonzero(dx)), int(dw.max())


def table() -> list[tuple]:
    """Return the two layers' names and descriptions."""
    n_in, n_out = math.prod(INPUT_SHAPE), math.prod(OUTPUT_SHAPE)
    convolution = describe(pyconv.Conv2D(6, 5), INPUT_SHAPE, OUTPUT_SHAPE, pyconv.conv2d_backward)
    dense = describe(pyconv.Dense(n_out), (n_in,), (n_out,), pyconv.dense_backward)
    return [("six 5x5 filters", *convolution), ("dense", *dense)]


def main(output: Path) -> None:
    print(f"from {INPUT_SHAPE} to {OUTPUT_SHAPE}:")
    header = ["layer", "parameters", "inputs seen by an output", "uses of a weight"]
    _figures.write_table(output / "why_convolutions.md", header, table())


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
