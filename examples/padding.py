"""Padding: zeros around the image keep its size and let the corners count.

output = floor((n + 2p - f) / s) + 1 for an n x n image, an f x f filter, stride s and p zeros on
each side. "valid" adds none; "same" adds what gives ceil(n / s): at stride 1 the output is as large
as the image, p = (f - 1) / 2 for an odd f. A zero left over goes behind, as in TensorFlow.
Writes padding.md (sizes) and padding.png (how many windows see each pixel).
"""

from pathlib import Path

import _figures
import numpy as np

import pyconv
from pyconv.geometry import conv_geometry

# n, f, s
SIZES = [(6, 3, 1), (6, 5, 1), (6, 4, 1), (28, 5, 1), (39, 3, 1), (7, 3, 2), (64, 4, 2)]


def table() -> list[tuple]:
    """Return padding, n, f, s, zeros before and behind, and the output's size of each case."""
    rows = []
    for n, f, s in SIZES:
        for padding in ("valid", "same"):
            g = conv_geometry((1, n, n, 1), (f, f, 1, 1), stride=s, padding=padding)
            rows.append((padding, n, f, s, g.pad_top, g.pad_bottom, g.out_h))
    return rows


def views(n: int, f: int, padding: str) -> np.ndarray:
    """Return how many windows see each pixel: the image's gradient under a filter of ones."""
    x = np.ones((1, n, n, 1), np.float32)
    w = np.ones((f, f, 1, 1), np.float32)
    dy = np.ones_like(pyconv.conv2d(x, w, padding=padding))
    dx, _, _ = pyconv.conv2d_backward(dy, x, w, padding=padding, need=("x",))
    return dx[0, :, :, 0]


def main(output: Path) -> None:
    header = ["padding", "n", "f", "s", "p before", "p behind", "output"]
    _figures.write_table(output / "padding.md", header, table())

    figure, ((valid, same),) = _figures.panels(1, 2, (8, 5))
    _figures.draw_matrix(valid, views(6, 3, "valid"), "valid: output 4x4")
    _figures.draw_matrix(same, views(6, 3, "same"), "same: output 6x6")
    figure.suptitle("How many 3x3 windows see each pixel of a 6x6 image")
    _figures.save(figure, output / "padding.png")


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
