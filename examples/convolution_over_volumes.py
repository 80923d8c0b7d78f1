"""Convolution over volumes: a filter is as deep as the image, and each filter gives one channel.

6x6x3 convolved with two 3x3x3 filters gives 4x4x2: one filter answers to vertical edges in red
alone, the other to horizontal edges in any colour.
Writes convolution_over_volumes.png.
"""

from pathlib import Path

import _figures
import numpy as np

import pyconv

VERTICAL = np.array([[1, 0, -1], [1, 0, -1], [1, 0, -1]], dtype=np.float32)
COLOURS = ("red", "green", "blue")


def image() -> np.ndarray:
    """Return a 6x6x3 picture: the left half has red, the top half green, all of it some blue."""
    x = np.zeros((6, 6, 3), np.float32)
    x[:, :3, 0] = 10
    x[:3, :, 1] = 10
    x[:, :, 2] = 5
    return x


def filters() -> np.ndarray:
    """Return the two filters, of shape (3, 3, 3, 2)."""
    w = np.zeros((3, 3, 3, 2), np.float32)
    w[:, :, 0, 0] = VERTICAL
    w[:, :, :, 1] = VERTICAL.T[:, :, np.newaxis]
    return w


def convolve() -> np.ndarray:
    """Return the image convolved with both filters, of shape (4, 4, 2)."""
    return pyconv.conv2d(image()[np.newaxis], filters())[0]


def main(output: Path) -> None:
    x, w, y = image(), filters(), convolve()
    print(f"{x.shape} * {w.shape[3]} filters {w.shape[:3]} gives {y.shape}")
    for i, name in enumerate(("vertical edges in red", "horizontal edges in any colour")):
        print(f"{name}:\n{y[:, :, i]}")

    figure, axes = _figures.panels(3, 4, (11, 9))
    for c, colour in enumerate(COLOURS):
        _figures.draw_matrix(axes[0, c], x[:, :, c], f"image: {colour}")
        for i in (0, 1):
            _figures.draw_matrix(axes[1 + i, c], w[:, :, c, i], f"filter {i + 1}: {colour}")
    axes[0, 3].imshow(x / 10)
    axes[0, 3].set_title("image")
    _figures.draw_matrix(axes[1, 3], y[:, :, 0], "= result 1")
    _figures.draw_matrix(axes[2, 3], y[:, :, 1], "= result 2")
    _figures.save(figure, output / "convolution_over_volumes.png")


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
