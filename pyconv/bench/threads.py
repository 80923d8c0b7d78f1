"""`pyconv bench threads`: how much faster each layer gets with more threads."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import geometric_mean

from .measure import Measurement
from .shapes import ConvShape

WORTH_THREADS = 20e6  # flops: below this a layer is over before threads can help much


def print_rows(measured: Iterable[list[Measurement]], threads: list[int],
               peer_name: str | None) -> list[Measurement]:
    """Print one line per layer and direction as it comes; returns all measurements."""
    heading = f"{'layer':<14}{'direction':<14}" + _columns(threads)
    if peer_name:
        heading += f"   {peer_name}" + _columns(threads)
    print("\n" + heading)
    everything = []
    for group in measured:
        line = f"{group[0].shape.name:<14}{group[0].direction:<14}"
        line += _cells([m.seconds for m in group])
        peer = [m.peer_seconds for m in group if m.peer_seconds]
        if peer_name and peer:
            line += " " * len(f"   {peer_name}") + _cells(peer)
        print(line, flush=True)
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


def _columns(threads: list[int]) -> str:
    first, *more = threads
    return f"{f'ms on {first}':>10}" + "".join(
        f"{f'ms on {count}':>10}{'x':>6}" for count in more)


def _cells(seconds: list[float]) -> str:
    first, *more = seconds
    return f"{1e3 * first:10.3f}" + "".join(
        f"{1e3 * now:10.3f}{first / now:6.2f}" for now in more)
