"""Strided convolution: the filter moves by two cells at a time, so 7x7 * 3x3 gives 3x3.

output = floor((n + 2p - f) / s) + 1 for an n x n image, an f x f filter, padding p and stride s:
windows that would hang over the edge are left out. (The lecture's slide has 83 and 127 where the
sums are 88 and 117.)
Writes strided_convolution.png and strided_convolution.md (output sizes for strides 1 to 4).
"""

from pathlib import Path

import _figures
import numpy as np

import pyconv

IMAGE = np.array(
    [
        [2, 3, 7, 4, 6, 2, 9],
        [6, 6, 9, 8, 7, 4, 3],
        [3, 4, 8, 3, 8, 9, 7],
        [7, 8, 3, 6, 6, 3, 4],
        [4, 2, 1, 8, 3, 4, 6],
        [3, 2, 4, 1, 9, 8, 3],
        [0, 1, 3, 9, 2, 1, 4],
    ],
    dtype=np.float32,
)
FILTER = np.array([[3, 4, 4], [1, 0, 2], [-1, 0, 3]], dtype=np.float32)


def convolve(stride: int) -> np.ndarray:
    """Return the image convolved with the filter, a matrix."""
    x = IMAGE[np.newaxis, :, :, np.newaxis]  # NHWC: one image, one channel
    w = FILTER[:, :, np.newaxis, np.newaxis]  # HWIO: one channel in, one out
    return pyconv.conv2d(x, w, stride=stride)[0, :, :, 0]


def main(output: Path) -> None:
    result = convolve(stride=2)
    print(result)
    rows = [(stride, "x".join(map(str, convolve(stride).shape))) for stride in (1, 2, 3, 4)]
    _figures.write_table(output / "strided_convolution.md", ["stride", "7x7 * 3x3 gives"], rows)

    figure, ((image, kernel, convolved),) = _figures.panels(1, 3, (10, 4))
    _figures.draw_matrix(image, IMAGE, "image, 7x7")
    _figures.draw_matrix(kernel, FILTER, "* filter, 3x3")
    _figures.draw_matrix(convolved, result, "= result, 3x3")
    for i, color in enumerate(("tab:orange", "tab:cyan", "tab:purple")):
        _figures.outline(image, 0, 2 * i, 3, color)
        _figures.outline(convolved, 0, i, 1, color)
    _figures.save(figure, output / "strided_convolution.png")


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
