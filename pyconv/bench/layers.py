"""`pyconv bench layers`: a table of layers, each in each direction, and what sums it up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from .machine import fma_peak
from .measure import UNSTEADY, Measurement
from .shapes import ConvShape


def print_rows(measured: Iterable[list[Measurement]], peers: Sequence[str], width: int = 14
               ) -> list[Measurement]:
    """Print each measurement as it comes, names in `width` columns; returns them all."""
    kind, everything = None, []
    for group in measured:
        for m in group:
            if m.shape.kind != kind:
                kind = m.shape.kind
                print("\n" + _header(kind, peers, width))
            print(_line(m, peers, width), flush=True)
            everything.append(m)
    if any(m.is_unsteady for m in everything):
        print(f"\n* unsteady: half of the rounds took over {UNSTEADY} times the best, of pyconv or a "
              "peer; this machine had other work, and the ratio says little")
    return everything


def print_summary(measurements: list[Measurement], peer: str) -> None:
    """Print the geometric means of the ratios, and the lowest, for each number of threads."""
    for threads in sorted({m.threads for m in measurements}):
        ratios = {(m.shape.name, m.direction): ratio for m in measurements
                  if m.threads == threads and (ratio := m.ratio(peer))}
        if not ratios:
            continue
        print(f"\n{peer}'s time / pyconv's, {label_threads(threads)}: geometric means")
        for title, group in summary(measurements, threads, peer).items():
            print(f"  {title:<40}{geometric_mean(group):6.2f}  (of {len(group)})")
        lowest = min(ratios, key=lambda key: ratios[key])
        print(f"  {'lowest: ' + ' '.join(lowest):<40}{ratios[lowest]:6.2f}")


def summary(measurements: list[Measurement], threads: int, peer: str) -> dict[str, list[float]]:
    """The ratios by direction; of them those where Winograd pays most; those of all pools."""
    compared = [(m, ratio) for m in measurements if m.threads == threads
                and (ratio := m.ratio(peer))]
    titled = [
        *((m.direction, ratio) for m, ratio in compared),
        *((f"{m.direction}, 3x3 stride 1, C >= 32", ratio) for m, ratio in compared
          if isinstance(m.shape, ConvShape) and m.shape.is_wide_3x3),
        *(("pooling", ratio) for m, ratio in compared if m.shape.kind == "pool"),
    ]
    ratios: dict[str, list[float]] = {}
    for title, ratio in titled:
        ratios.setdefault(title, []).append(ratio)
    return ratios


def _header(kind: str, peers: Sequence[str], width: int) -> str:
    rate = "GFLOP/s  % of peak" if kind == "conv" else "   GB/s           "
    algorithm = f"{'algorithm':<11}" if kind == "conv" else ""
    columns = "".join(f"{peer + ' ms':>13}  ratio" for peer in peers)
    return (f"{'layer':<{width}}{'direction':<14}{algorithm}{'threads':>7}{'ms':>10}  {rate}    error"
            f"{columns}")


def _line(m: Measurement, peers: Sequence[str], width: int) -> str:
    algorithm = f"{m.algorithm:<11}" if m.algorithm else ""
    peak = f"{100 * m.rate / fma_peak(m.threads):11.0f}" if m.shape.kind == "conv" else " " * 11
    error = f"{m.error:9.0e}" if m.error else f"{'exact':>9}"
    columns = "".join(
        f"{1e3 * seconds:13.3f}{m.ratio(peer):7.2f}" if (seconds := m.peer_seconds(peer))
        else f"{'-':>13}{'-':>7}" for peer in peers)
    return (f"{m.shape.name:<{width}}{m.direction:<14}{algorithm}{m.threads:>7}{1e3 * m.seconds:10.3f}"
            f"{m.rate:9.1f}{peak}{error}{columns}{' *' if m.is_unsteady else ''}")


def label_threads(count: int) -> str:
    """1 thread, 2 threads."""
    return f"{count} thread" + "s" * (count > 1)
