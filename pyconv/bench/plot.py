"""Pictures of what `pyconv bench` measured, by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .layers import label_threads
from .machine import fma_peak
from .measure import Measurement
from .predict import Prediction
from .threads import predicted_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PYCONV, PEERS, PEAK = "#4c72b0", ("#b8bcc4", "#8a8f99"), "#c44e52"
PANEL = 3.4  # inches


def available() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def plot_layers(path: Path, measurements: list[Measurement], peers: list[str],
                title: str) -> None:
    """Write bars of GFLOP/s (convolutions, beside the FMA peak) or GB/s (pools) of each layer.

    Of several numbers of threads, the picture shows the largest.
    """
    threads = max(m.threads for m in measurements)
    peak = fma_peak(threads)

    def bars(axes: Axes, group: list[Measurement]) -> None:
        places, height = range(len(group)), 0.8 / (1 + len(peers))
        axes.barh([i - 0.4 for i in places], [m.rate for m in group], height, align="edge",
                  color=PYCONV, label="pyconv")
        for k, peer in enumerate(peers):
            # NaN draws nothing: a layer that the peer cannot do has no bar.
            axes.barh([i - 0.4 + (k + 1) * height for i in places],
                      [m.rate / (m.ratio(peer) or float("nan")) for m in group], height,
                      align="edge", color=PEERS[k % len(PEERS)], label=peer)
        if group[0].shape.kind == "conv":
            axes.axvline(peak, color=PEAK, label=f"FMA peak, {peak:.0f}")
            axes.set_xlabel("GFLOP/s of the direct sum")
        else:
            axes.set_xlabel("GB/s")
        axes.set_yticks(places, [m.shape.name for m in group])
        axes.set_ylim(len(group) - 0.5, -0.5)

    _panels(path, [m for m in measurements if m.threads == threads], bars,
            f"{title}, {label_threads(threads)}")


def plot_threads(path: Path, measurements: list[Measurement], predictions: list[Prediction],
                 title: str) -> None:
    """Write each layer's speed-up over its fewest threads: measured, predicted, and the ideal.

    Full marks are measured, hollow ones predicted; both axes are logarithmic.
    """
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    counts = sorted({m.threads for m in measurements})
    more = [counts[0], *(count for count in predicted_counts(counts) if count > counts[0])]
    names = list(dict.fromkeys(m.shape.name for m in measurements))
    hollow: dict[str, Any] = {"linestyle": "--", "linewidth": 0.8, "markerfacecolor": "white",
                              "zorder": 1.5}

    def lines(axes: Axes, group: list[Measurement]) -> None:
        foreseen = [p for p in predictions if p.direction == group[0].direction]
        ends = more if foreseen else counts
        axes.plot(ends, [count / counts[0] for count in ends], color=PEAK, linestyle=":",
                  label="ideal")
        axes.plot([], [], color="black", marker="o", label="measured")
        if foreseen:
            axes.plot([], [], color="black", marker="o", label="predicted", **hollow)
        for i, name in enumerate(names):
            style: dict[str, Any] = {"color": f"C{i % 10}", "marker": "osv^D"[i // 10 % 5]}
            seconds = {m.threads: m.seconds for m in group if m.shape.name == name}
            if seconds:
                axes.plot(counts, [seconds[counts[0]] / seconds[count] for count in counts],
                          **style, label=name)
            for p in [p for p in foreseen if p.shape.name == name]:
                axes.plot(more, [p.seconds(counts[0]) / p.seconds(count) for count in more],
                          **style | hollow)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
        axes.set_xticks(ends)
        axes.set_xlabel("threads")

    _panels(path, measurements, lines,
            f"{title}: times as fast as on {label_threads(counts[0])}")


def _panels(path: Path, measurements: list[Measurement],
            draw: Callable[[Axes, list[Measurement]], None], title: str) -> None:
    """One panel a direction; a row of convolutions and a row of pools, where there are any."""
    from matplotlib.figure import Figure

    rows = [
        [[m for m in measurements if (m.shape.kind, m.direction) == (kind, direction)]
         for direction in dict.fromkeys(m.direction for m in measurements if m.shape.kind == kind)]
        for kind in dict.fromkeys(m.shape.kind for m in measurements)
    ]
    heights = [2.2 + 0.26 * max(len({m.shape.name for m in group}) for group in row)
               for row in rows]
    figure = Figure(figsize=(PANEL * max(len(row) for row in rows) + 1, sum(heights) + 0.5),
                    layout="constrained")
    figure.suptitle(title)
    strips = figure.subfigures(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for strip, row in zip(strips, rows, strict=True):
        panels = strip.subplots(1, len(row), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, row, strict=True):
            draw(axes, group)
            axes.set_title(group[0].direction)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
        strip.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper",
                     frameon=False)
    figure.savefig(path, dpi=120)
