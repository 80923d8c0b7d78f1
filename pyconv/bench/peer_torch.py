"""Runs PyTorch's layers for `pyconv bench --peer torch`, in a process of its own.

A process of its own, because two OpenMP pools in one process spin against each other, and because
PyTorch may live in another environment: this script needs Python and torch, and nothing of pyconv.
It reads one JSON request a line from standard input and answers each with one line:

    {"do": "prepare", "problem": {...}, "direction": "forward"}
        -> {"layouts": [...], "sample": [...]}: some values of the result, for comparison
    {"do": "time", "layout": "channels_last", "threads": 2, "seconds": 0.02}
        -> {"seconds": seconds per call}

Between requests it waits in a read, so its threads sleep. Gradients are asked of PyTorch one at a
time, as pyconv's are (the filter's together with the bias's). PyTorch pads both sides alike: where
the problem pads unevenly, the excess is padded by `F.pad`: in the timed call in a forward pass,
as PyTorch's own padding="same" does, and beforehand for gradients, which favours PyTorch a little.
"""

# mypy: disable-error-code="import-not-found"

import json
import sys
from functools import partial
from time import perf_counter

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own custom)

aten = torch.ops.aten
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
SAMPLE = 512  # values of the result that are sent back
HASH = 2654435761  # Knuth's multiplicative hash; pyconv/bench/problem.py draws the same values


def values(shape, seed):
    """Integers from -4 to 4 as float32, in row-major order of `shape`."""
    count = 1
    for n in shape:
        count *= n
    index = torch.arange(count, dtype=torch.int64) + seed * 1000003
    return ((index * HASH % 2**32 >> 16) % 9 - 4).to(torch.float32).reshape(shape)


def image(shape, seed, layout):
    """Values in NHWC order as an NCHW tensor in memory layout `layout`."""
    return values(shape, seed).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[layout])


def split_pads(pads):
    """((top, bottom), (left, right)) -> padding alike on both sides, and the excess for F.pad."""
    (top, bottom), (left, right) = pads
    h, w = min(top, bottom), min(left, right)
    return [h, w], [left - w, right - w, top - h, bottom - h]


def conv(p, direction, layout):
    """Return the call, and a function from its result to NHWC (or HWIO) order."""
    even, excess = split_pads(p["pads"])
    x = image(p["x"], 1, layout)
    w = values(p["w"], 2).permute(3, 2, 0, 1).contiguous(memory_format=LAYOUTS[layout])
    b = values(p["w"][3:], 3)
    geometry = p["stride"], even, p["dilation"]
    if direction == "forward":
        call = partial(F.conv2d, x, w, b, *geometry, p["groups"])
        if any(excess):
            def call():
                return F.conv2d(F.pad(x, excess), w, b, *geometry, p["groups"])
        return call, lambda y: y.permute(0, 2, 3, 1)
    mask = [direction == "dx", direction == "dw", direction == "dw"]
    call = partial(aten.convolution_backward, image(p["y"], 4, layout), F.pad(x, excess), w,
                   [len(b)], *geometry, False, [0, 0], p["groups"], mask)
    if direction == "dw":
        return call, lambda gradients: gradients[1].permute(2, 3, 1, 0)
    (left, _, top, _), (_, height, width, _) = excess, p["x"]
    return call, lambda gradients: gradients[0].permute(0, 2, 3, 1)[
        :, top:top + height, left:left + width]


def pool(p, direction, layout):
    """As `conv`."""
    padding, excess = split_pads(p["pads"])
    if any(excess):
        raise ValueError("PyTorch does not pool with uneven padding")
    geometry = p["window"], p["stride"], padding
    x, dy = image(p["x"], 1, layout), image(p["y"], 4, layout)
    if direction == "max_forward":
        call = partial(aten.max_pool2d_with_indices, x, *geometry)
        return call, lambda result: result[0].permute(0, 2, 3, 1)
    if direction == "max_backward":
        _, indices = aten.max_pool2d_with_indices(x, *geometry)
        call = partial(aten.max_pool2d_with_indices_backward, dy, x, *geometry, [1, 1], False,
                       indices)
    elif direction == "avg_forward":
        call = partial(aten.avg_pool2d, x, *geometry, False, False)
    else:
        call = partial(aten.avg_pool2d_backward, dy, x, *geometry, False, False, None)
    return call, lambda result: result.permute(0, 2, 3, 1)


def seconds_per_call(call, seconds):
    """Mean time of as many calls as fill `seconds`."""
    calls, start, now = 0, perf_counter(), 0.0
    while now < seconds:
        call()
        calls += 1
        now = perf_counter() - start
    return now / calls


def prepare(problem, direction):
    build = conv if problem["kind"] == "conv" else pool
    calls = {}
    for layout in LAYOUTS:
        calls[layout], to_rows = build(problem, direction, layout)
        result = to_rows(calls[layout]()).flatten()
    at = [i * HASH % len(result) for i in range(min(SAMPLE, len(result)))]
    return calls, {"layouts": list(LAYOUTS), "sample": result[at].tolist()}


@torch.inference_mode()
def main():
    print(json.dumps({"name": "PyTorch", "version": torch.__version__}), flush=True)
    calls = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                calls = {}  # frees the last problem's memory before the next one takes its own
                calls, answer = prepare(request["problem"], request["direction"])
            else:
                torch.set_num_threads(request["threads"])
                seconds = seconds_per_call(calls[request["layout"]], request["seconds"])
                answer = {"seconds": seconds}
        except (ValueError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
