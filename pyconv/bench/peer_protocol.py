"""The peers' side of the talk with `peer.py`: JSON lines, one request and one answer a line.

    {"do": "prepare", "problem": {...}, "direction": "forward"}
        -> {"layouts": [...], "sample": [...]}: some values of the result, for comparison
    {"do": "time", "layout": "channels_last", "threads": 2, "seconds": 0.02}
        -> {"seconds": seconds per call}
    {"do": "memory"}
        -> {"bytes": by how much the process has grown at its peak, since it was ready}

A peer has a process of its own, because two OpenMP pools in one process spin against each other,
and because it may live in another environment: its script needs nothing of pyconv but this file.
Between requests it waits in a read, so its threads sleep.
"""

import json
import sys
from time import perf_counter

SAMPLE = 512  # values of the result that are sent back
HASH = 2654435761  # Knuth's multiplicative hash: the fraction of the golden ratio
MIX = 739982445  # of a second round: after one, neighbours cancel out in sums, and errors look large
LARGEST = 4  # of a value


def integers(index):
    """-4 to 4, as good as random, for an integer array of NumPy or PyTorch."""
    h = index * HASH % 2**32
    h = (h ^ (h >> 15)) * MIX % 2**32
    return (h >> 16) % (2 * LARGEST + 1) - LARGEST


def serve(name, version, prepare, set_threads):
    """Answer requests until standard input ends.

    `prepare(problem, direction)` returns a call for each layout, and the flat result in NHWC (or
    HWIO) order; what the peer cannot do is a ValueError or RuntimeError.
    """
    print(json.dumps({"name": name, "version": version}), flush=True)
    calls, start = {}, resident("VmRSS")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                calls = {}  # frees the last problem's memory before the next one takes its own
                calls, result = prepare(request["problem"], request["direction"])
                at = [i * HASH % len(result) for i in range(min(SAMPLE, len(result)))]
                answer = {"layouts": list(calls), "sample": result[at].tolist()}
            elif request["do"] == "memory":
                answer = {"bytes": resident("VmHWM") - start}
            else:
                set_threads(request["threads"])
                seconds = seconds_per_call(calls[request["layout"]], request["seconds"])
                answer = {"seconds": seconds}
        except (ValueError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def seconds_per_call(call, seconds):
    """Mean time of as many calls as fill `seconds`; a call may say that it does several `steps`."""
    calls, start, now = 0, perf_counter(), 0.0
    while now < seconds:
        call()
        calls += getattr(call, "steps", 1)
        now = perf_counter() - start
    return now / calls


def resident(what):
    """Bytes of memory that this process holds ("VmRSS"), or held at its peak ("VmHWM")."""
    try:
        with open("/proc/self/status") as lines:
            for line in lines:
                if line.startswith(what):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
