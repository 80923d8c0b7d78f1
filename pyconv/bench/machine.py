"""The machine that is measured: its CPU, its compiler, and the best that its CPU can do."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, _cpu, _dispatch, _threads

LANES = 16  # numbers that the kernel's probe writes per thread, at most
STEPS = 100_000  # of the probe: some tenths of a millisecond, so that some try is undisturbed
SEARCH = 0.3  # seconds of tries
QUIET = 0.7  # of the peaks of single threads, that as many threads together reach when undisturbed


def describe() -> dict[str, Any]:
    """What a reader needs to judge the numbers, as plain JSON values."""
    return {
        "cpu": cpu_name(), "cpus": _threads.available_cpus(), "isa": _dispatch.active.isa,
        "system": platform.platform(), "compiler": _cpu.compiler_version(),
        "python": platform.python_version(), "numpy": np.__version__, "pyconv": __version__,
        "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def commit() -> str | None:
    """The commit of the source tree that pyconv runs from; None if it runs from elsewhere."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"],
                              cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def fma_peak(threads: int) -> float:
    """Measured peak of float32 multiply-adds with these kernels' vectors, in GFLOP/s."""
    flops, seconds = _probe(threads, STEPS)
    return flops / seconds / 1e9


def is_busy(threads: int) -> bool:
    """Whether other work takes CPUs: then threads that should run together wait for each other."""
    return (threads <= _threads.available_cpus()
            and fma_peak(threads) < QUIET * threads * fma_peak(1))


def region_seconds(threads: int) -> float:
    """Cost of starting and ending a parallel region on this many threads.

    Measured on as many as there are CPUs (and at least 2); beyond, in proportion to the threads
    that join the first one, since libgomp starts and collects them one by one.
    """
    measured = min(threads, max(2, _threads.available_cpus()))
    cost = max(_probe(measured, 0)[1] - _probe(1, 0)[1], 0.0)
    return cost * (threads - 1) / max(1, measured - 1)


@cache
def _probe(threads: int, steps: int) -> tuple[int, float]:
    """Operations of one call of the kernels' probe, and the shortest time that a call took."""
    probe = _dispatch.active.modules["f"].fma_probe
    out = np.empty((threads, LANES), np.float32)
    flops, best, end = 0, math.inf, time.perf_counter() + SEARCH
    while (start := time.perf_counter()) < end:
        flops = probe(out, steps)
        best = min(best, time.perf_counter() - start)
    return flops, best
