"""A network like LeNet-5: sizes shrink, channels grow, and most parameters sit in the dense layers.

A filter has f * f * C_in weights and a bias, a unit of a dense layer one weight for each input and
a bias. (Early prints of the lecture's table have 208, 416, 48,001, 10,081 and 841 parameters: they
take filters as one channel deep, and count one bias for a whole dense layer.)
Writes lenet5.md.
"""

import math
from pathlib import Path

import _figures

from pyconv import Conv2D, Dense, Flatten, MaxPooling2D, Sequential

INPUT_SHAPE = (32, 32, 3)


def network() -> dict:
    """Return the layers by the lecture's names, built for the input's shape."""
    layers = {
        "CONV1 (f=5, s=1)": Conv2D(8, 5, activation="relu"),
        "POOL1 (f=2, s=2)": MaxPooling2D(2),
        "CONV2 (f=5, s=1)": Conv2D(16, 5, activation="relu"),
        "POOL2 (f=2, s=2)": MaxPooling2D(2),
        "flatten": Flatten(),
        "FC3": Dense(120, activation="relu"),
        "FC4": Dense(84, activation="relu"),
        "softmax": Dense(10),  # gives logits; the loss applies the softmax
    }
    Sequential(list(layers.values()), input_shape=INPUT_SHAPE, seed=0)
    return layers


def table() -> list[tuple]:
    """Return name, activation shape, activation size and number of parameters of each layer."""
    rows = [("input", INPUT_SHAPE, math.prod(INPUT_SHAPE), 0)]
    for name, layer in network().items():
        shape = layer.output_shape
        parameters = sum(array.size for array in layer.params.values())
        rows.append((name, shape, math.prod(shape), parameters))
    return rows


def main(output: Path) -> None:
    header = ["layer", "activation shape", "activation size", "parameters"]
    rows = table()
    rows.append(("total", "", "", sum(row[3] for row in rows)))
    _figures.write_table(output / "lenet5.md", header, rows)


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
