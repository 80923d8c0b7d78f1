"""Runs PyTorch's layers for `pyconv bench --peer torch`; peer_protocol.py has the talk.

Gradients are asked of PyTorch one at a time, as pyconv's are (the filter's together with the
bias's). PyTorch pads both sides alike: where the problem pads unevenly, the excess is padded by
`F.pad`: in the timed call in a forward pass, as PyTorch's own padding="same" does, and beforehand
for gradients, which favours PyTorch a little.
"""

# mypy: disable-error-code="import-not-found"

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own custom)
from peer_protocol import integers, serve

aten = torch.ops.aten
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def values(shape, seed):
    """Integers from -4 to 4 as float32, in row-major order of `shape`."""
    count = 1
    for n in shape:
        count *= n
    index = torch.arange(count, dtype=torch.int64) + seed * 1000003
    return integers(index).to(torch.float32).reshape(shape)


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


def prepare(problem, direction):
    build = conv if problem["kind"] == "conv" else pool
    calls = {}
    for layout in LAYOUTS:
        calls[layout], to_rows = build(problem, direction, layout)
        result = to_rows(calls[layout]()).flatten()
    return calls, result


if __name__ == "__main__":
    with torch.inference_mode():
        serve("PyTorch", torch.__version__, prepare, torch.set_num_threads)
