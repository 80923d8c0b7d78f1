"""Edge detection: a 3x3 filter of positive and negative columns answers where brightness changes.

First the lecture's 6x6 images, where the answer can be checked by hand; then a drawn hand, with the
plain filter and with Sobel's and Scharr's, which weigh the middle row more. The filter for
horizontal edges is the one for vertical edges, transposed.
Writes edge_detection_6x6.png and edge_detection_hand.png.
"""

from pathlib import Path

import _figures
import numpy as np

import pyconv

VERTICAL = np.array([[1, 0, -1], [1, 0, -1], [1, 0, -1]], dtype=np.float32)
SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float32)
SCHARR = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]], dtype=np.float32)

BRIGHT_TO_DARK = np.full((6, 6), (10, 10, 10, 0, 0, 0), np.float32)
DARK_TO_BRIGHT = BRIGHT_TO_DARK[:, ::-1]
CHEQUERED = np.vstack([BRIGHT_TO_DARK[:3], DARK_TO_BRIGHT[:3]])


def detect(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the image convolved with the filter, a matrix smaller by 2."""
    x = image[np.newaxis, :, :, np.newaxis]  # NHWC: one image, one channel
    w = kernel[:, :, np.newaxis, np.newaxis]  # HWIO: one channel in, one out
    return pyconv.conv2d(x, w)[0, :, :, 0]


def hand() -> np.ndarray:
    """Return a drawn hand with five fingers, grey levels from 0 to 255."""
    images, labels, *_ = pyconv.signs.load()
    return images[labels[0] == 5][0].mean(axis=-1, dtype=np.float32)


def draw_lecture(path: Path) -> None:
    """Print and draw the lecture's 6x6 images, their filters and the 4x4 results."""
    examples = [
        ("bright to dark", BRIGHT_TO_DARK, "vertical edges", VERTICAL),
        ("dark to bright", DARK_TO_BRIGHT, "vertical edges", VERTICAL),
        ("chequered", CHEQUERED, "horizontal edges", VERTICAL.T),
    ]
    figure, axes = _figures.panels(3, 3, (8, 9))
    for row, (image_name, image, filter_name, kernel) in zip(axes, examples, strict=True):
        result = detect(image, kernel)
        print(f"{image_name}, {filter_name}:\n{result}")
        _figures.draw_matrix(row[0], image, image_name)
        _figures.draw_matrix(row[1], kernel, f"* {filter_name}")
        _figures.draw_matrix(row[2], result, "= result")
    _figures.save(figure, path)


def draw_hand(path: Path) -> None:
    """Draw a hand and its edges in grey levels: each filter's positive weights made to sum to 1."""
    image = hand()
    edges = {
        name: [detect(image, k / k[k > 0].sum()) for k in (kernel, kernel.T)]
        for name, kernel in {"plain": VERTICAL, "Sobel": SOBEL, "Scharr": SCHARR}.items()
    }
    figure, axes = _figures.panels(2, 4, (12, 6))
    axes[0, 0].imshow(image, cmap="gray")
    axes[0, 0].set_title("image")
    axes[1, 0].imshow(np.hypot(*edges["Sobel"]), cmap="gray")
    axes[1, 0].set_title("strength of edges (Sobel)")
    for column, (name, directions) in zip(axes.T[1:], edges.items(), strict=True):
        for ax, result in zip(column, directions, strict=True):
            drawn = ax.imshow(result, cmap="gray", vmin=-60, vmax=60)
        column[0].set_title(f"{name}, vertical edges")
        column[1].set_title(f"{name}, horizontal edges")
    figure.colorbar(drawn, ax=axes[:, 1:], label="difference in grey levels")
    _figures.save(figure, path)


def main(output: Path) -> None:
    draw_lecture(output / "edge_detection_6x6.png")
    draw_hand(output / "edge_detection_hand.png")


if __name__ == "__main__":
    main(_figures.output_folder(__doc__))
