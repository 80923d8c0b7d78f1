"""The one place that decides how many threads a call uses.

Argument > `threads(n)` / `set_num_threads` > PYCONV_NUM_THREADS > OMP_NUM_THREADS > the CPUs this
process may use (affinity and cgroup quota). The count never changes a result, only its time.

libgomp hangs when a child made by `fork` starts a second team after its parent had one, so in such
a child everything runs on one thread.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ._cpu import openmp_version
from ._team import spread

_MAX_THREADS = 1024
_forked = False


def _check(n: object, name: str) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"`{name}` is {n!r} ({type(n).__name__}); expected an integer >= 1")
    count = n.__index__()
    if not 1 <= count <= _MAX_THREADS:
        raise ValueError(f"`{name}` is {count}; expected 1 to {_MAX_THREADS}")
    return count


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name, "").split(",")[0].strip()  # OMP_NUM_THREADS may be a list
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_THREADS:
        raise ImportError(f"{name}={text!r}: expected an integer from 1 to {_MAX_THREADS}")
    return int(text)


def _read(path: str) -> str:  # without pathlib, which takes as long to import as all of this package
    with open(path) as file:
        return file.read()


def _cgroup_quota() -> float:
    """CPUs' worth of time that cgroup v2 or v1 grants this process; infinity without a limit."""
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
    except (OSError, ValueError):
        try:
            quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
            period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def available_cpus() -> int:
    """CPUs that this process may use: its affinity mask, cut by the cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _cgroup_quota())))


_current = (
    _from_environment("PYCONV_NUM_THREADS")
    or _from_environment("OMP_NUM_THREADS")
    or available_cpus()
)


def resolve(num_threads: int | None) -> int:
    """Threads for one call whose argument was `num_threads`, which is about to start."""
    count = _current if num_threads is None else _check(num_threads, "num_threads")
    if _forked:
        return 1
    spread(count)
    return count


def get_num_threads() -> int:
    """Return the number of threads that calls without `num_threads` use.

    Examples
    --------
    >>> import pyconv
    >>> with pyconv.threads(1):
    ...     pyconv.get_num_threads()
    1
    """
    return 1 if _forked else _current


def set_num_threads(n: int) -> None:
    """Set the number of threads of calls without `num_threads`, for the whole process.

    Parameters
    ----------
    n : int
        1 to 1024. More than the machine's cores only costs time.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer, or outside that range; nothing changes then.
    """
    global _current
    _current = _check(n, "n")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads inside a ``with`` block, then as many as before.

    Parameters
    ----------
    n : int
        1 to 1024.
    """
    global _current
    before = _current
    set_num_threads(n)
    try:
        yield
    finally:
        _current = before


def _after_fork() -> None:
    global _forked
    _forked = True


if openmp_version() and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
