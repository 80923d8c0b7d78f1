"""Training in child processes, and in many Python threads at once: the right bits, and no hanging.

libgomp hangs in a child that is forked after its parent used threads, so there one thread does all
the work. Every test is under an alarm; those that fork run in a fresh Python with a timeout.
"""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import networks
import numpy as np
import pytest
from networks import trained

import pyconv

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PROCESSES = """
import multiprocessing, sys, warnings
import networks, pyconv

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
pyconv.set_num_threads(2)
before = [networks.trained(seed) for seed in range(4)]
with multiprocessing.get_context({method!r}).Pool(2) as pool:
    results = pool.map_async(networks.trained_with_threads, range(4), chunksize=1).get(60)
assert [result for _, result in results] == before, "other bits"
assert [networks.trained(seed) for seed in range(4)] == before, "other bits in the parent"
print(sorted({{threads for threads, _ in results}}))
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_training_in_child_processes(method, run_python, alarm):
    with alarm(150):
        done = run_python(PROCESSES.format(method=method), PYCONV_NUM_THREADS="3")
    assert done.stdout == {"fork": "[1]\n"}.get(method, "[3]\n"), done.stderr


FORK = """
import os, signal, threading, warnings
import networks, pyconv
from pyconv.callbacks import Callback

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
pyconv.set_num_threads(2)
expected = networks.trained(1)

def child():
    \"\"\"Fork; train there; whether it gave the same bits on one thread.\"\"\"
    number = os.fork()
    if number == 0:
        signal.alarm(40)  # kills the child if it hangs
        same = networks.trained(1) == expected and pyconv.get_num_threads() == 1
        os._exit(0 if same else 1)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
"""

IN_A_CALLBACK = FORK + """
class Fork(Callback):
    def on_epoch_end(self, *_):
        print(child())

assert networks.trained(1, [Fork()]) == expected
"""

BESIDE_THREADS = FORK + """
stop = threading.Event()

def train():
    while not stop.is_set():
        results.append(networks.trained(1))

results = []
workers = [threading.Thread(target=train) for _ in range(3)]
for worker in workers:
    worker.start()
for _ in range(4):
    print(child())
stop.set()
for worker in workers:
    worker.join()
assert len(results) > 3 and all(result == expected for result in results)
"""


@needs_fork
@pytest.mark.parametrize(("code", "children"), [(IN_A_CALLBACK, 2), (BESIDE_THREADS, 4)],
                         ids=["in-a-callback", "beside-threads-that-train"])  # fmt: skip
def test_fork_in_the_middle_of_training(code, children, run_python, alarm):
    with alarm(150):
        done = run_python(code)
    assert done.stdout == "0\n" * children, done.stderr


# ------------------------------------------------------------------------- eight Python threads


def in_eight_threads(work):
    """What work(0) to work(7) return, started together."""
    start = threading.Barrier(8)

    def run(number):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, range(8)))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_eight_threads_train_at_once(num_threads, alarm):
    """Four seeds twice each, so that plans of the same shapes are in use in all of them."""
    expected = [trained(seed) for seed in range(4)]
    with alarm(120), pyconv.threads(num_threads):
        results = in_eight_threads(lambda number: trained(number % 4))
    assert results == expected * 2


def test_eight_threads_predict_with_one_model_while_another_trains(alarm):
    model, (x, _) = networks.small(), networks.bright_corners()
    expected = [model.predict(x[: 6 * number + 1]).tobytes() for number in range(7)]
    alone = trained(0)

    def work(number):
        if number == 7:
            return trained(0)
        return [model.predict(x[: 6 * number + 1]).tobytes() for _ in range(20)]

    with alarm(120):
        *predictions, training = in_eight_threads(work)
    assert predictions == [[same] * 20 for same in expected]
    assert training == alone


def test_eight_threads_start_with_the_same_new_shapes(alarm, rng):
    """No plan is there yet: every thread makes its own."""
    x = rng.standard_normal((3, 23, 19, 16)).astype(np.float32)
    w = rng.standard_normal((3, 3, 16, 24)).astype(np.float32)
    with alarm(60):
        results = in_eight_threads(lambda _: pyconv.conv2d(x, w, padding=1).tobytes())
    assert len(set(results)) == 1
