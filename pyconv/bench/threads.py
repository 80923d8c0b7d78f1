"""`pyconv bench threads`: how much faster each layer gets, and would get, with more threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from .layers import label_threads
from .machine import region_seconds
from .measure import Measurement
from .predict import COUNTS, Prediction
from .shapes import ConvShape

WORTH_THREADS = 20e6  # flops: below this a layer is over before threads can help much


def print_rows(measured: Iterable[list[Measurement]], threads: list[int],
               peers: Sequence[str]) -> list[Measurement]:
    """Print one line per layer and direction as it comes; returns all measurements."""
    heading = f"{'layer':<14}{'direction':<14}" + _columns(threads)
    print("\n" + heading + "".join(f"   {peer}" + _columns(threads) for peer in peers))
    everything = []
    for group in measured:
        line = f"{group[0].shape.name:<14}{group[0].direction:<14}"
        line += _cells([m.seconds for m in group])
        for peer in peers:
            theirs = [seconds for m in group if (seconds := m.peer_seconds(peer))]
            cells = _cells(theirs) if theirs else ""
            line += " " * len(f"   {peer}") + f"{cells:<{len(_columns(threads))}}"
        print(line.rstrip(), flush=True)
        everything += group
    return everything


def print_summary(measurements: list[Measurement]) -> None:
    """Print the geometric mean and the lowest speed-up of the convolutions that are worth it."""
    for threads in sorted({m.threads for m in measurements})[1:]:
        ups = speed_ups(measurements, threads)
        if ups:
            lowest = min(ups, key=lambda key: ups[key])
            print(f"\nconvolutions above {WORTH_THREADS / 1e6:.0f} MFLOP, {threads} threads: "
                  f"{geometric_mean(ups.values()):.2f} times as fast as on "
                  f"{min(m.threads for m in measurements)} (geometric mean of {len(ups)}), "
                  f"lowest {ups[lowest]:.2f} ({' '.join(lowest)})")


def speed_ups(measurements: list[Measurement], threads: int) -> dict[tuple[str, str], float]:
    """By (layer, direction): time on the fewest threads / time on `threads`, where worth it."""
    fewest = min(m.threads for m in measurements)
    before = {(m.shape.name, m.direction): m.seconds for m in measurements if m.threads == fewest}
    return {key: before[key] / m.seconds for m in measurements
            if m.threads == threads and isinstance(m.shape, ConvShape)
            and m.shape.flops >= WORTH_THREADS and (key := (m.shape.name, m.direction)) in before}


def predicted_counts(threads: Iterable[int]) -> list[int]:
    """Numbers of threads to predict: those that were measured too, for comparison, and more."""
    return sorted({*threads, *COUNTS} - {1})


def print_predictions(predictions: Iterable[Prediction], threads: list[int]) -> list[Prediction]:
    """Print one line per layer and direction as it comes; returns all predictions."""
    counts = predicted_counts(threads)
    everything: list[Prediction] = []
    for p in predictions:
        if not everything:
            _print_heading(counts)
        print(f"{p.shape.name:<14}{p.direction:<14}{sum(map(len, p.regions)):>7}"
              f"{100 * p.serial / p.seconds(1):10.1f}"
              + "".join(f"{p.speed_up(count):10.2f}" for count in counts), flush=True)
        everything.append(p)
    return everything


def _print_heading(counts: list[int]) -> None:
    print("\nPredicted, not measured: times as fast as on 1 thread, by list scheduling of each work "
          "item's\nmeasured time on 1 thread, plus for each parallel region "
          + ", ".join(f"{1e6 * region_seconds(count):.1f} us on {label_threads(count)}"
                      for count in (counts[0], counts[-1]))
          + ".\nMemory bandwidth, which threads share, is left out: an upper bound.\n")
    print(f"{'layer':<14}{'direction':<14}{'items':>7}{'serial %':>10}"
          + "".join(f"{f'x on {count}':>10}" for count in counts))


def _columns(threads: list[int]) -> str:
    first, *more = threads
    return f"{f'ms on {first}':>10}" + "".join(
        f"{f'ms on {count}':>10}{'x':>6}" for count in more)


def _cells(seconds: list[float]) -> str:
    first, *more = seconds
    return f"{1e3 * first:10.3f}" + "".join(
        f"{1e3 * now:10.3f}{first / now:6.2f}" for now in more)
