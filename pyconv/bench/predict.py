"""How convolutions would do on more threads than there are: a prediction, not a measurement.

A call on one thread notes when each parallel region starts and when each work item ends. Work items
depend on shapes alone, so the same ones would be handed to more threads, in the same order, each to
the first thread that is free (list scheduling). The predicted time is what passes outside of regions,
and for each region its last thread's end plus the cost of a region on so many threads.

What it leaves out: threads share the bandwidth of the memory and the last level of cache, and a CPU
with many busy cores lowers its clock. So it says whether there are enough items of even size and
little enough besides them; it is an upper bound. Pools, which wait for memory, have no prediction.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from .. import _dispatch
from .machine import region_seconds
from .problem import Problem, problems
from .shapes import ConvShape, PoolShape

COUNTS = (4, 8, 16, 32, 64, 128)  # threads
MOST_TIMES = 1 << 20  # that one call may note


@dataclass
class Prediction:
    """One convolution in one direction, taken apart on one thread.

    Attributes
    ----------
    serial : float
        Seconds outside of parallel regions.
    regions : list of ndarray
        Of each parallel region in turn, the seconds of each work item.
    """

    shape: ConvShape | PoolShape
    direction: str
    serial: float
    regions: list[np.ndarray]

    def seconds(self, threads: int) -> float:
        """The predicted time of a call."""
        return self.serial + sum(makespan(items, threads) + region_seconds(threads)
                                 for items in self.regions)

    def speed_up(self, threads: int) -> float:
        """One thread's time over that of `threads`."""
        return self.seconds(1) / self.seconds(threads)

    def as_row(self, counts: Sequence[int]) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "name": self.shape.name, "direction": self.direction, "serial_seconds": self.serial,
            "items": [items.tolist() for items in self.regions],
            "predicted_seconds": {count: self.seconds(count) for count in counts},
        }


def predict_all(shapes: Sequence[ConvShape | PoolShape], directions: Sequence[str],
                rounds: int) -> Iterator[Prediction]:
    """Take apart each convolution that is shared among threads at all."""
    for problem in problems(shapes, directions):
        if isinstance(problem.shape, ConvShape):
            prediction = predict(problem, rounds)
            if prediction.regions:
                yield prediction


def predict(problem: Problem, rounds: int) -> Prediction:
    """Take one problem apart; of each item's times in `rounds` calls the shortest counts."""
    call = problem.call(1)
    call()  # makes the plan
    taken = [take_apart(call) for _ in range(rounds)]
    serial = min(whole - sum(items.sum() for items in regions) for whole, regions in taken)
    regions = [np.min(items, axis=0)
               for items in zip(*(regions for _, regions in taken), strict=True)]
    return Prediction(problem.shape, problem.direction, serial, regions)


def take_apart(call: Callable[[], Any]) -> tuple[float, list[np.ndarray]]:
    """Seconds of a call on one thread, and of each work item in each of its parallel regions.

    Raises
    ------
    ValueError
        If there are more items than are noted.
    """
    record_items = _dispatch.active.modules["f"].record_items
    times = np.zeros(MOST_TIMES)
    record_items(times)
    start = perf_counter()
    try:
        call()
    finally:
        whole, count = perf_counter() - start, record_items(None)
    if count > MOST_TIMES:
        raise ValueError(f"a call of {count} work items; at most {MOST_TIMES} are noted")
    times = times[:count]
    runs = np.split(times, np.flatnonzero(times <= 0))  # a region's start, then its items' ends
    return whole, [np.diff(np.abs(run)) for run in runs if len(run) > 1 and run[0] < 0]


def makespan(items: Sequence[float] | np.ndarray, threads: int) -> float:
    """Seconds until the last of `threads` is done, when each free one takes the next item."""
    ends = [0.0] * threads
    for seconds in items:
        heapq.heapreplace(ends, ends[0] + float(seconds))
    return max(ends)
