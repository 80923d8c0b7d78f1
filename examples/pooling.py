"""Max and average pooling: each window gives one number, channel by channel; nothing is learned.

The usual window is 2x2 with stride 2, which halves height and width; windows of 3x3 with stride 1
overlap.
Writes pooling.png.
"""

from pathlib import Path

import _figures
import numpy as np

import pyconv

IMAGE_4X4 = np.array([[1, 3, 2, 1], [2, 9, 1, 1], [1, 3, 2, 3], [5, 6, 1, 2]], dtype=np.float32)
IMAGE_5X5 = np.array(
    [[1, 3, 2, 1, 3], [2, 9, 1, 1, 5], [1, 3, 2, 3, 2], [8, 3, 5, 1, 0], [5, 6, 1, 2, 9]],
    dtype=np.float32,
)
CASES = [(IMAGE_4X4, 2, 2), (IMAGE_5X5, 3, 1)]  # image, window, stride


def pool(image: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest and the mean value of each window, two matrices."""
    x = image[np.newaxis, :, :, np.newaxis]  # NHWC: one image, one channel
    largest = pyconv.max_pool2d(x, window, stride=stride)
    mean = pyconv.avg_pool2d(x, window, stride=stride)
    return largest[0, :, :, 0], mean[0, :, :, 0]


def main(output: Path) -> None:
    figure, axes = _figures.panels(2, 3, (9, 7))
    for row, (image, window, stride) in zip(axes, CASES, strict=True):
        largest, mean = pool(image, window, stride)
        title = f"window {window}x{window}, stride {stride}"
        print(f"{title}, max:\n{largest}\naverage:\n{mean.round(2)}")
        _figures.draw_matrix(row[0], image, title)
        _figures.draw_matrix(row[1], largest, "max pooling")
        _figures.draw_matrix(row[2], mean, "average pooling")

    colors = ("tab:orange", "tab:cyan", "tab:purple", "tab:olive")
    for (i, j), color in zip(np.ndindex(2, 2), colors, strict=True):
        _figures.outline(axes[0, 0], 2 * i, 2 * j, 2, color)
        _figures.outline(axes[0, 1], i, j, 1, color)
        _figures.outline(axes[0, 2], i, j, 1, color)
    _figures.save(figure, output / "pooling.png")


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
