"""Pictures of a training run, by matplotlib: the costs and accuracies, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, COST, ACCURACY = "#333333", "#c44e52", "#4c72b0"
MAX_COUNTED = 30  # with more classes, numbers in the cells would overlap


def available() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def plot_history(
    path: Path, costs: Sequence[float], accuracies: Sequence[float], title: str
) -> None:
    """Write a PNG with the cost and the training accuracy of every epoch.

    Parameters
    ----------
    path : Path
    costs, accuracies : sequence of float, one an epoch
        The accuracies as shares of 1.
    title : str
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    epochs = range(len(costs))
    marker = "o" if len(costs) <= 20 else ""
    for axes, values, colour, label in (
        (left, costs, COST, "cost"),
        (right, accuracies, ACCURACY, "training accuracy"),
    ):
        axes.plot(epochs, values, color=colour, marker=marker, linewidth=2, label=label)
        axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", colors=colour)
        axes.spines["top"].set_visible(False)
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("epoch")
    left.grid(alpha=0.3)
    left.set_title(title, color=INK)
    _write(figure, path)


def confusion(labels: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> NDArray[Any]:
    """How many images of class i (row) were taken for class j (column): (K, K), int64.

    >>> import numpy as np
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    cells = num_classes * labels + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def plot_confusion(path: Path, counts: NDArray[Any], classes: Sequence[str], title: str) -> None:
    """Write a PNG of the confusion matrix.

    Parameters
    ----------
    path : Path
    counts : ndarray of shape (K, K), integer
        What `confusion` gives.
    classes : sequence of K str
    title : str
    """
    from matplotlib.figure import Figure

    k = len(classes)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share = counts / totals  # the colour shows what became of each class, however rare it is
    side = float(np.clip(2.2 + 0.55 * k, 4.5, 14))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    bar.outline.set_visible(False)
    if k <= MAX_COUNTED:
        for i, j in np.ndindex(k, k):
            colour = "white" if share[i, j] > 0.5 else INK if counts[i, j] else "#bbbbbb"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour)
        longest = max(map(len, classes))
        axes.set_xticks(range(k), classes, rotation=90 if longest > 4 else 0)
        axes.set_yticks(range(k), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    """Save it in one step, so that no half-written picture is ever seen under its name."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=120)
    part.replace(path)
