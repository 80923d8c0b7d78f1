"""Runs ncnn's convolution for `pyconv bench --peer ncnn`; peer_protocol.py has the talk.

ncnn infers, one image at a time: only the forward pass of one image has a call here. It computes in
float32, as pyconv does (by default it would store half precision), with Winograd where it chooses
to, and with its pools of memory, as its own benchmark does. Its layout is its own: the input is
given as planes, and it packs them by channels inside the call.
"""

# mypy: disable-error-code="import-not-found"

import tempfile
from pathlib import Path

import ncnn
import numpy as np
from peer_protocol import integers, serve

HALF_PRECISION = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                  "use_bf16_packed", "use_bf16_storage")
MAGIC, FLOAT32 = 7767517, 0  # the first line of a model's text; the tag before its weights
ONLY_LAYOUT = "ncnn's own"


def values(shape, seed):
    """Integers from -4 to 4 as float32, in row-major order of `shape`."""
    index = np.arange(np.prod(shape, dtype=np.int64)) + seed * 1000003
    return integers(index).astype(np.float32).reshape(shape)


def convolution(p, allocators):
    """A net of one convolution layer with its weights."""
    net = ncnn.Net()
    for name in HALF_PRECISION:
        setattr(net.opt, name, False)
    net.opt.blob_allocator, net.opt.workspace_allocator = allocators
    w, b = values(p["w"], 2).transpose(3, 2, 0, 1), values(p["w"][3:], 3)
    (top, bottom), (left, right) = p["pads"]
    (kh, kw), (stride_h, stride_w), (dilation_h, dilation_w) = (
        p["window"], p["stride"], p["dilation"])
    options = {0: len(b), 1: kw, 11: kh, 2: dilation_w, 12: dilation_h, 3: stride_w, 13: stride_h,
               4: left, 15: right, 14: top, 16: bottom, 5: 1, 6: w.size}
    layer = " ".join(f"{key}={value}" for key, value in options.items())
    with tempfile.TemporaryDirectory() as folder:
        text, weights = Path(folder, "net.param"), Path(folder, "net.bin")
        text.write_text(f"{MAGIC}\n2 2\nInput x 0 1 x\nConvolution y 1 1 x y {layer}\n")
        weights.write_bytes(FLOAT32.to_bytes(4, "little") + w.tobytes() + b.tobytes())
        if net.load_param(str(text)) or net.load_model(str(weights)):
            raise RuntimeError("ncnn cannot load the layer")
    return net


def main():
    nets = []
    allocators = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()

    def prepare(problem, direction):
        if (problem["kind"], direction) != ("conv", "forward") or problem["x"][0] != 1:
            raise ValueError("ncnn computes the forward pass of one image")
        if problem["groups"] != 1:
            raise ValueError("grouped convolution has another layer in ncnn")
        net = convolution(problem, allocators)
        nets[:] = [net]
        planes = np.ascontiguousarray(values(problem["x"], 1)[0].transpose(2, 0, 1))
        image = ncnn.Mat(planes).clone()  # a Mat of an array does not keep the array

        def call():
            extractor = net.create_extractor()
            extractor.input("x", image)
            status, y = extractor.extract("y")
            if status:
                raise RuntimeError(f"ncnn stopped with status {status}")
            return y

        return {ONLY_LAYOUT: call}, np.array(call()).transpose(1, 2, 0).ravel()

    def set_threads(count):
        nets[0].opt.num_threads = count

    serve("ncnn", ncnn.__version__, prepare, set_threads)


if __name__ == "__main__":
    main()
