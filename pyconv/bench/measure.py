"""Check one problem's result, then time it: pyconv and the peers in turns, the best of several.

On a machine that others use, times drift by tens of per cent from minute to minute, so what is
compared is measured within the same second, and ratios are what counts. Both sides are timed in
the same way: a round calls as often as fills ROUND seconds and takes the mean; the best round
counts. Between sides there is a pause, since OpenMP's threads spin for some milliseconds after
their work, which would take a core from the other side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from . import reference
from .peer import Peer, PeerCannotError, PeerError
from .problem import Problem, problems, sample
from .shapes import ConvShape, PoolShape

ROUND = 0.02  # seconds
PAUSE = 0.02  # seconds; libgomp's threads spin for 6 to 8 ms
UNSTEADY = 1.5
PAUSE_AFTER_CHECK = 0.2  # seconds; the reference's OpenBLAS spins for 100 ms


@dataclass
class Measurement:
    """What was found for one shape, direction and number of threads.

    Attributes
    ----------
    algorithm : str or None
        What computed a convolution; None for a pool.
    error : float
        Of the result against the reference: the largest, as a part of the rms; 0.0 if exact.
    rounds : list of float
        Seconds of a call in each round.
    peer_rounds : dict of peer's name -> dict of layout -> list of float
        Seconds of a peer's call in each round; without the peers that cannot do this.
    """

    shape: ConvShape | PoolShape
    direction: str
    algorithm: str | None
    threads: int
    error: float
    rounds: list[float]
    peer_rounds: dict[str, dict[str, list[float]]]

    @property
    def seconds(self) -> float:
        return min(self.rounds)

    def peer_layout(self, peer: str) -> str:
        """The memory layout in which a peer was fastest."""
        layouts = self.peer_rounds[peer]
        return min(layouts, key=lambda layout: min(layouts[layout]))

    def peer_seconds(self, peer: str) -> float | None:
        """A peer's time in its best layout; None if it cannot do this."""
        if peer not in self.peer_rounds:
            return None
        return min(self.peer_rounds[peer][self.peer_layout(peer)])

    def ratio(self, peer: str) -> float | None:
        """Peer's time / pyconv's time: above 1, pyconv is faster."""
        seconds = self.peer_seconds(peer)
        return seconds / self.seconds if seconds else None

    @property
    def is_unsteady(self) -> bool:
        """Whether half of some side's rounds took far longer than its best: others took CPUs."""
        sides = [self.rounds, *(rounds for layouts in self.peer_rounds.values()
                                for rounds in layouts.values())]
        return any(median(rounds) > UNSTEADY * min(rounds) for rounds in sides)

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
            "algorithm": self.algorithm, "threads": self.threads, "seconds": self.seconds,
            "rounds": self.rounds, "unsteady": self.is_unsteady,
            "unit": "GFLOP/s" if self.shape.kind == "conv" else "GB/s", "rate": self.rate,
            "error_of_rms": self.error,
            "peers": {peer: {"layout": self.peer_layout(peer), "seconds": self.peer_seconds(peer),
                             "ratio": self.ratio(peer), "rounds": rounds}
                      for peer, rounds in self.peer_rounds.items()},
        }


def measure_all(shapes: Sequence[ConvShape | PoolShape], directions: Sequence[str],
                threads: Sequence[int], rounds: int, peers: Sequence[Peer]
                ) -> Iterator[list[Measurement]]:
    """Measure each shape in each of `directions` that it has; yields one item per thread count."""
    for problem in problems(shapes, directions):
        yield measure(problem, threads, rounds, peers)


def measure(problem: Problem, threads: Sequence[int], rounds: int,
            peers: Sequence[Peer]) -> list[Measurement]:
    """Check and time one problem at each of `threads`.

    Raises
    ------
    reference.WrongResultError
        If pyconv's result is wrong, or differs between thread counts, or a peer computes
        something else.
    """
    calls = {count: problem.call(count) for count in threads}
    errors = check(problem, calls)
    layouts = {peer: _prepare(peer, problem, calls[threads[0]]) for peer in peers}
    measurements = [
        Measurement(problem.shape, problem.direction, problem.algorithm, count, errors[count], [],
                    {peer.name: {layout: [] for layout in found}
                     for peer, found in layouts.items() if found})
        for count in threads
    ]
    time.sleep(PAUSE_AFTER_CHECK)
    for _ in range(rounds):
        for m in measurements:
            m.rounds.append(seconds_per_call(calls[m.threads], ROUND))
            time.sleep(PAUSE)
            for peer, found in layouts.items():
                for layout in found:
                    try:
                        seconds = peer.time(layout, m.threads, ROUND)
                    except PeerError as error:
                        _go_on_without(peer, problem, error)
                        layouts[peer] = []
                        break
                    m.peer_rounds[peer.name][layout].append(seconds)
                    time.sleep(PAUSE)
    for m in measurements:
        for peer, found in layouts.items():
            if not found:
                m.peer_rounds.pop(peer.name, None)
    return measurements


def _go_on_without(peer: Peer, problem: Problem, error: PeerError) -> None:
    """Some shapes are fatal to some libraries; they shall not end the benchmark."""
    print(f"pyconv: {peer.name}, at {problem}: {error}; it is started again for the next",
          file=sys.stderr)
    peer.restart()


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
    except PeerError as error:
        _go_on_without(peer, problem, error)
        return []
    ours = next(iter(problem.named(call()).values()))  # y, dx or dw
    reference.compare(sample(ours, len(theirs)), theirs, reference.WINOGRAD_ERROR,
                      f"{problem}, beside {peer.name}'s: result")
    return peer.layouts
