"""Check one problem's result, then time it: pyconv and the peer in turns, the best of several.

On a machine that others use, times drift by tens of per cent from minute to minute, so what is
compared is measured within the same second, and ratios are what counts. Both sides are timed in
the same way: a round calls as often as fills ROUND seconds and takes the mean; the best round
counts. Between sides there is a pause, since OpenMP's threads spin for some milliseconds after
their work, which would take a core from the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import reference
from .peer import Peer, PeerCannotError
from .problem import Problem, sample
from .shapes import ConvShape, PoolShape

ROUND = 0.02  # seconds
PAUSE = 0.02  # seconds; libgomp's threads spin for 6 to 8 ms
PAUSE_AFTER_CHECK = 0.2  # seconds; the reference's OpenBLAS spins for 100 ms


@dataclass
class Measurement:
    """What was found for one shape, direction and number of threads.

    Attributes
    ----------
    error : float
        Of the result against the reference: the largest, as a part of the rms; 0.0 if exact.
    rounds, peer_rounds : list of float, dict of layout -> list of float
        Seconds of a call in each round.
    """

    shape: ConvShape | PoolShape
    direction: str
    threads: int
    error: float
    rounds: list[float]
    peer_rounds: dict[str, list[float]]

    @property
    def seconds(self) -> float:
        return min(self.rounds)

    @property
    def peer_layout(self) -> str | None:
        """The memory layout in which the peer was fastest; None without a peer."""
        best = {layout: min(rounds) for layout, rounds in self.peer_rounds.items()}
        return min(best, key=lambda layout: best[layout], default=None)

    @property
    def peer_seconds(self) -> float | None:
        return min(self.peer_rounds[self.peer_layout]) if self.peer_layout else None

    @property
    def ratio(self) -> float | None:
        """Peer's time / pyconv's time: above 1, pyconv is faster."""
        return self.peer_seconds / self.seconds if self.peer_seconds else None

    @property
    def rate(self) -> float:
        """10**9 operations a second of a convolution; bytes a second of a pooling layer."""
        work = (self.shape.flops if isinstance(self.shape, ConvShape)
                else self.shape.bytes_moved(self.direction))
        return work / self.seconds / 1e9

    def as_row(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "name": self.shape.name, "kind": self.shape.kind, "direction": self.direction,
            "threads": self.threads, "seconds": self.seconds, "rounds": self.rounds,
            "unit": "GFLOP/s" if self.shape.kind == "conv" else "GB/s", "rate": self.rate,
            "error_of_rms": self.error, "peer_seconds": self.peer_seconds,
            "peer_layout": self.peer_layout, "peer_rounds": self.peer_rounds, "ratio": self.ratio,
        }


def measure_all(shapes: Sequence[ConvShape | PoolShape], directions: Sequence[str],
                threads: Sequence[int], rounds: int, peer: Peer | None
                ) -> Iterator[list[Measurement]]:
    """Measure each shape in each of `directions` that it has; yields one item per thread count."""
    for shape in shapes:
        for direction in shape.directions:
            if direction in directions:
                yield measure(Problem(shape, direction), threads, rounds, peer)


def measure(problem: Problem, threads: Sequence[int], rounds: int,
            peer: Peer | None) -> list[Measurement]:
    """Check and time one problem at each of `threads`.

    Raises
    ------
    reference.WrongResultError
        If pyconv's result is wrong, or differs between thread counts, or the peer computes
        something else.
    """
    calls = {count: problem.call(count) for count in threads}
    errors = check(problem, calls)
    layouts = _prepare(peer, problem, calls[threads[0]]) if peer else []
    measurements = [
        Measurement(problem.shape, problem.direction, count, errors[count], [],
                    {layout: [] for layout in layouts})
        for count in threads
    ]
    time.sleep(PAUSE_AFTER_CHECK)
    for _ in range(rounds):
        for m in measurements:
            m.rounds.append(seconds_per_call(calls[m.threads], ROUND))
            time.sleep(PAUSE)
            for layout, seconds in m.peer_rounds.items():
                assert peer is not None
                seconds.append(peer.time(layout, m.threads, ROUND))
                time.sleep(PAUSE)
    return measurements


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """Mean time of as many calls as fill `seconds`; at least one."""
    calls, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        call()
        calls += 1
        now = time.perf_counter() - start
    return now / calls


def check(problem: Problem, calls: dict[int, Callable[[], Any]]) -> dict[int, float]:
    """The error of each call's result, by its number of threads.

    Raises
    ------
    reference.WrongResultError
        If one is too large, or the results of two numbers of threads differ in any bit.
    """
    want, allowed = reference.expected(problem), reference.tolerance(problem)
    results = {count: problem.named(call()) for count, call in calls.items()}
    errors = {count: reference.check(result, want, allowed, f"{problem}, threads={count}")
              for count, result in results.items()}
    first, *others = results.values()
    for name, array in first.items():
        if any(array.tobytes() != other[name].tobytes() for other in others):
            raise reference.WrongResultError(
                f"{problem}: {name} has other bits on other numbers of threads: {list(calls)}")
    return errors


def _prepare(peer: Peer, problem: Problem, call: Callable[[], Any]) -> list[str]:
    """The peer's layouts for this problem, after a look at its result; none if it cannot do it."""
    try:
        theirs = peer.prepare(problem)
    except PeerCannotError:
        return []
    ours = next(iter(problem.named(call()).values()))  # y, dx or dw
    reference.compare(sample(ours, len(theirs)), theirs, reference.WINOGRAD_ERROR,
                      f"{problem}, beside {peer.name}'s: result")
    return peer.layouts
