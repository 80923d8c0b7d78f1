"""`pyconv bench layers`: a table of layers, each in each direction, and what sums it up."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import geometric_mean

from .machine import fma_peak
from .measure import Measurement
from .shapes import ConvShape


def print_rows(measured: Iterable[list[Measurement]], peer_name: str | None) -> list[Measurement]:
    """Print each measurement as it comes; returns them all."""
    kind, everything = None, []
    for group in measured:
        for m in group:
            if m.shape.kind != kind:
                kind = m.shape.kind
                print("\n" + _header(kind, peer_name))
            print(_line(m, peer_name), flush=True)
            everything.append(m)
    return everything


def print_summary(measurements: list[Measurement], peer_name: str) -> None:
    """Print the geometric means of the ratios, and the lowest, for each number of threads."""
    for threads in sorted({m.threads for m in measurements}):
        print(f"\n{peer_name}'s time / pyconv's, {label_threads(threads)}: geometric means")
        for title, ratios in summary(measurements, threads).items():
            print(f"  {title:<40}{geometric_mean(ratios):6.2f}  (of {len(ratios)})")
        lowest = min((m for m in measurements if m.threads == threads and m.ratio),
                     key=lambda m: m.ratio or 0.0, default=None)
        if lowest:
            title = f"lowest: {lowest.shape.name} {lowest.direction}"
            print(f"  {title:<40}{lowest.ratio:6.2f}")


def summary(measurements: list[Measurement], threads: int) -> dict[str, list[float]]:
    """The ratios by direction; of them those where Winograd pays most; those of all pools."""
    compared = [m for m in measurements if m.threads == threads and m.ratio]
    titled = [
        *((m.direction, m) for m in compared),
        *((f"{m.direction}, 3x3 stride 1, C >= 32", m) for m in compared
          if isinstance(m.shape, ConvShape) and m.shape.is_wide_3x3),
        *(("pooling", m) for m in compared if m.shape.kind == "pool"),
    ]
    ratios: dict[str, list[float]] = {}
    for title, m in titled:
        ratios.setdefault(title, []).append(m.ratio or 0.0)
    return ratios


def _header(kind: str, peer_name: str | None) -> str:
    rate = "GFLOP/s  % of peak" if kind == "conv" else "   GB/s           "
    peer = f"{peer_name + ' ms':>13}  ratio" if peer_name else ""
    return f"{'layer':<14}{'direction':<14}{'threads':>7}{'ms':>10}  {rate}    error{peer}"


def _line(m: Measurement, peer_name: str | None) -> str:
    peak = f"{100 * m.rate / fma_peak(m.threads):11.0f}" if m.shape.kind == "conv" else " " * 11
    error = f"{m.error:9.0e}" if m.error else f"{'exact':>9}"
    peer = ""
    if m.peer_seconds:
        peer = f"{1e3 * m.peer_seconds:13.3f}{m.ratio:7.2f}"
    elif peer_name:
        peer = f"{'-':>13}{'-':>7}"
    return (f"{m.shape.name:<14}{m.direction:<14}{m.threads:>7}{1e3 * m.seconds:10.3f}"
            f"{m.rate:9.1f}{peak}{error}{peer}")


def label_threads(count: int) -> str:
    """1 thread, 2 threads."""
    return f"{count} thread" + "s" * (count > 1)
