"""Threads change no bit; who decides how many there are; and a fork survives them."""

import os
import re
import sys

import numpy as np
import pytest
from operations import OPERATIONS, digest, inputs

import pyconv

COUNTS = (1, 2, 3, 8)


@pytest.mark.parametrize("batch", [1, 5, 40])
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_same_bits_for_any_number_of_threads(operation, batch, dtype, isa):
    arrays = inputs(operation, batch, dtype)
    found = set()
    for num_threads in COUNTS:
        with pyconv.threads(num_threads):
            found.add(digest(operation.run(*arrays)))
    assert len(found) == 1


@pytest.mark.parametrize("layer", [
    ((8, 64, 64, 3), (4, 4, 3, 8)),
    ((16, 28, 28, 6), (5, 5, 6, 16)),
    ((8, 16, 16, 64), (3, 3, 64, 64)),
    ((2, 7, 7, 130), (1, 1, 130, 260)),
])  # fmt: skip
def test_same_bits_in_layers_of_real_networks(layer, dtype, isa, rng):
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in layer)
    dy = rng.standard_normal((*x.shape[:3], w.shape[3])).astype(dtype)
    forward, backward = set(), set()
    for num_threads in COUNTS:
        options = {"padding": "same", "num_threads": num_threads}
        forward.add(digest([pyconv.conv2d(x, w, **options)]))
        backward.add(digest(pyconv.conv2d_backward(dy, x, w, **options)))
    assert (len(forward), len(backward)) == (1, 1)


def test_same_bits_every_time(dtype, isa):
    """Workspaces are used again: what an earlier call left in them must not show."""
    problems = [(op, inputs(op, batch, dtype)) for op in OPERATIONS for batch in (3, 5, 2)]
    first = [digest(op.run(*arrays)) for op, arrays in problems]
    for _ in range(3):
        assert [digest(op.run(*arrays)) for op, arrays in problems] == first


# ------------------------------------------------------------------------- who decides how many


def test_set_num_threads_and_the_context():
    before = pyconv.get_num_threads()
    try:
        pyconv.set_num_threads(3)
        with pyconv.threads(2):
            assert pyconv.get_num_threads() == 2
            with pyconv.threads(5):
                assert pyconv.get_num_threads() == 5
            assert pyconv.get_num_threads() == 2
        assert pyconv.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="passed on"), pyconv.threads(7):
            raise RuntimeError("passed on")
        assert pyconv.get_num_threads() == 3
    finally:
        pyconv.set_num_threads(before)


@pytest.mark.parametrize(
    ("environment", "code", "expected"),
    [
        ({"PYCONV_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "pyconv.set_num_threads(2)", 2),
        ({"PYCONV_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "", 3),
        ({"OMP_NUM_THREADS": "5"}, "", 5),
        ({"OMP_NUM_THREADS": "4,2"}, "", 4),
        ({"PYCONV_NUM_THREADS": "", "OMP_NUM_THREADS": ""}, "", None),
        ({}, "", None),
    ],
)
def test_set_num_threads_then_pyconv_then_openmp_then_affinity(
    run_python, environment, code, expected
):
    done = run_python(f"import pyconv\n{code}\nprint(pyconv.get_num_threads())", **environment)
    assert done.returncode == 0, done.stderr
    if expected is None:  # a container's quota may lower it further
        assert 1 <= int(done.stdout) <= len(os.sched_getaffinity(0))
    else:
        assert int(done.stdout) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_limits_the_default(run_python):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import pyconv
print(pyconv.get_num_threads())
"""
    assert run_python(code).stdout == "1\n"


@pytest.mark.parametrize(
    ("theirs", "spins"),
    [({}, "40000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_spin_shortly(run_python, theirs, spins):
    done = run_python("import pyconv, os; print('GOMP_SPINCOUNT' in os.environ)",
                      OMP_DISPLAY_ENV="verbose", **theirs)
    found = re.search("GOMP_SPINCOUNT = '(.*)'", done.stderr)
    if found is None:
        pytest.skip("this OpenMP runtime is not GCC's")
    assert found[1] == spins
    assert done.stdout == f"{'GOMP_SPINCOUNT' in theirs}\n"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "100000"])
@pytest.mark.parametrize("name", ["PYCONV_NUM_THREADS", "OMP_NUM_THREADS"])
def test_nonsense_in_the_environment_is_an_import_error(run_python, name, value):
    done = run_python("import pyconv", **{name: value})
    assert done.returncode == 1
    assert f"ImportError: {name}='{value}': expected an integer" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize(("argument", "expected"), [(1, 1), (3, 3), (None, 2)])
def test_the_argument_comes_first(run_python, argument, expected):
    """As many threads as asked for really run, whatever the settings say."""
    code = f"""
import os
import numpy as np
import pyconv
pyconv.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
x, w = np.ones((4, 32, 32, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
pyconv.conv2d(x, w, num_threads={argument})
print(1 + len(os.listdir("/proc/self/task")) - before)
"""
    done = run_python(code, PYCONV_NUM_THREADS="7")
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
                    reason="there is one CPU, or no way to choose")
@pytest.mark.parametrize("bound", ["false", "true"])
def test_workers_are_kept_off_the_caller_s_cpu(run_python, bound):
    """Unless the user has bound them; other threads may run where they could before."""
    code = """
import os, threading, time
import numpy as np
import pyconv
from pyconv._team import spread

def masks(threads):
    return [os.sched_getaffinity(thread) for thread in sorted(threads)]

def tasks():
    return {int(name) for name in os.listdir("/proc/self/task")}

threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
others = tasks()
x, w = np.ones((4, 32, 32, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
cpus, before = os.sched_getaffinity(0), masks(others)
pyconv.conv2d(x, w, num_threads=2)
worker, = tasks() - others
mask = os.sched_getaffinity(worker)
time.sleep(0.02)    # they are looked after once in some milliseconds
spread(2)
now = os.sched_getaffinity(worker)
print("apart" if now < cpus and len(now) == len(cpus) - 1 else "as it was" if now == mask else now)
print("the rest as before" if masks(others) == before else before)
"""
    done = run_python(code, OMP_PROC_BIND=bound)
    worker = {"false": "apart", "true": "as it was"}[bound]
    assert done.stdout == f"{worker}\nthe rest as before\n", done.stderr


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-3, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)],
)
def test_bad_counts(count, error):
    x = np.ones((1, 1, 1, 1), np.float32)
    before = pyconv.get_num_threads()
    with pytest.raises(error, match=rf"`n` is {count!r}.*expected"):
        pyconv.set_num_threads(count)
    with pytest.raises(error, match=rf"`n` is {count!r}.*expected"), pyconv.threads(count):
        pass
    with pytest.raises(error, match=rf"`num_threads` is {count!r}.*expected"):
        pyconv.conv2d(x, x, num_threads=count)
    assert pyconv.get_num_threads() == before


# ---------------------------------------------------------------------------------------- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use(run_python):
    """The child of a process that has used its threads runs on one, and gets the same bits."""
    code = """
import os, signal, warnings
import pyconv
from operations import digests

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
pyconv.set_num_threads(2)
before = list(digests())
child = os.fork()
if child == 0:
    signal.alarm(30)  # kills the child if it hangs
    good = list(digests()) == before and pyconv.get_num_threads() == 1
    pyconv.set_num_threads(3)
    good = good and list(digests()) == before
    os._exit(0 if good else 1)
assert list(digests()) == before and pyconv.get_num_threads() == 2
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print({0: "same bits", 1: "other bits, or not one thread"}.get(status, f"killed: {status}"))
"""
    done = run_python(code)
    assert done.stdout == "same bits\n", done.stderr
