"""What the example scripts share: the command line, tables, and matrices drawn with their numbers.

Tables need nothing but Python; pictures need matplotlib (`pip install 'pyconv-cnn[plot]'`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np


def output_folder(docstring: str) -> Path:
    """Read `--output` from the command line, the script's docstring as help; make the folder."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="DIR",
        help="where to write, made if missing (default: the current folder)",
    )
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_table(path: Path, header: list[str], rows: list[tuple]) -> None:
    """Print a table and write it to `path` as Markdown, the first column to the left."""
    cells = [
        [f"{value:,}" if isinstance(value, int) else str(value) for value in row]
        for row in [header, *rows]
    ]
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for first, *rest in cells:
        right = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append(f"| {' | '.join([first.ljust(widths[0]), *right])} |")
    text = "\n".join(lines)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{text}\nwrote {path}")


def panels(rows: int, columns: int, size: tuple[float, float]):
    """Return a figure of `size` inches and its axes, an array of shape (rows, columns)."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no backend to choose
    except ModuleNotFoundError:
        sys.exit("the picture needs matplotlib: pip install 'pyconv-cnn[plot]'")
    figure = Figure(figsize=size)
    figure.set_layout_engine("compressed", w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure, axes


def draw_matrix(ax, matrix, title: str) -> None:
    """Draw a matrix as grey cells with their numbers: white above zero, grey zero, black below."""
    limit = abs(matrix).max() or 1
    ax.pcolormesh(matrix, cmap="gray", vmin=-limit, vmax=limit, edgecolors="0.6", linewidth=0.5)
    for (row, column), value in np.ndenumerate(matrix):
        ink = "black" if value > -limit / 4 else "white"
        ax.text(column + 0.5, row + 0.5, f"{value:.3g}", color=ink, ha="center", va="center")
    ax.set(title=title, aspect="equal", ylim=(len(matrix), 0))  # row 0 on top


def outline(ax, top: int, left: int, size: int, color: str) -> None:
    """Frame the `size` x `size` cells whose first is (top, left)."""
    from matplotlib.patches import Rectangle

    inset = 0.06  # so that frames of neighbouring windows stand side by side
    side = size - 2 * inset
    frame = Rectangle((left + inset, top + inset), side, side, fill=False, color=color, linewidth=3)
    ax.add_patch(frame)


def save(figure, path: Path) -> None:
    """Write the figure as PNG and say so."""
    figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.15)
    print(f"wrote {path}")
