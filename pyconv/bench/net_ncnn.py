"""Runs ncnn's inference of one image for `pyconv bench networks --peer ncnn`, in float32."""

# mypy: disable-error-code="import-not-found"

import json
import tempfile
from pathlib import Path

import ncnn
import numpy as np
from net_onnx import size_of
from peer_ncnn import FLOAT32, HALF_PRECISION, MAGIC
from peer_protocol import serve


class Builder:
    """ncnn's two files, of lines and of weights; a blob that is read twice goes through a Split."""

    def __init__(self, file):
        self.file, self.lines, self.weights, self.blobs = file, [], [], 1

    def layer(self, kind, inputs, outputs=1, **options):
        tops = [f"b{self.blobs + i}" for i in range(outputs)]
        self.blobs += outputs
        text = " ".join(f"{key.removeprefix('_')}={value}" for key, value in options.items())
        self.lines.append(f"{kind} l{len(self.lines)} {len(inputs)} {outputs} "
                          f"{' '.join(inputs)} {' '.join(tops)} {text}")
        return tops

    def apply(self, x, layers):
        for p in layers:
            op = p["op"]
            if "pads" in p:
                (top, bottom), (left, right) = p["pads"]
            if op == "conv":
                w = self.file[p["w"]]
                kh, kw, _, k = w.shape
                (x,) = self.layer(
                    "Convolution", [x], _0=k, _1=kw, _11=kh, _3=p["stride"][1], _13=p["stride"][0],
                    _4=left, _15=right, _14=top, _16=bottom, _5=int(bool(p["b"])), _6=w.size,
                    _9=int(p["relu"]))
                self.weigh(w.transpose(3, 2, 0, 1), p)
            elif op == "dense":
                w = self.file[p["w"]]
                if p["image"]:
                    w = w.reshape(*p["image"], -1).transpose(2, 0, 1, 3).reshape(w.shape)
                (x,) = self.layer("InnerProduct", [x], _0=w.shape[1], _1=int(bool(p["b"])),
                                  _2=w.size, _9=int(p["relu"]))
                self.weigh(w.T, p)
            elif op in ("max_pool", "avg_pool"):
                (kh, kw), (sh, sw) = p["window"], p["stride"]
                (x,) = self.layer("Pooling", [x], _0=int(op == "avg_pool"), _1=kw, _11=kh, _2=sw,
                                  _12=sh, _3=left, _14=right, _13=top, _15=bottom, _5=1)
            elif op == "global_avg_pool":
                (x,) = self.layer("Pooling", [x], _0=1, _4=1)
            elif op == "batch_norm":
                gamma, beta, mean, variance = (
                    self.file[p[name]] for name in ("gamma", "beta", "mean", "variance"))
                (x,) = self.layer("BatchNorm", [x], _0=len(gamma), _1=p["epsilon"])
                for values in (gamma, mean, variance, beta):
                    self.weights.append(values.astype(np.float32).tobytes())
            elif op == "residual":
                a, b = self.layer("Split", [x], outputs=2)
                (x,) = self.layer("BinaryOp", [self.apply(a, p["body"]),
                                               self.apply(b, p["shortcut"])], _0=0)
            else:
                (x,) = self.layer("ReLU", [x])
        return x

    def weigh(self, w, p):
        self.weights += [FLOAT32.to_bytes(4, "little"), np.ascontiguousarray(w).tobytes()]
        if p["b"]:
            self.weights.append(self.file[p["b"]].tobytes())


def main():
    nets = []
    allocators = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()

    def prepare(problem, direction):
        if size_of(direction) != 1:
            raise ValueError("ncnn infers one image at a time")
        file = np.load(problem["file"])
        builder = Builder(file)
        y = builder.apply("b0", json.loads(str(file["layers"])))
        net = ncnn.Net()
        for name in HALF_PRECISION:
            setattr(net.opt, name, False)
        net.opt.blob_allocator, net.opt.workspace_allocator = allocators
        net.opt.num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            text, weights = Path(folder, "net.param"), Path(folder, "net.bin")
            lines = ["Input input 0 1 b0", *builder.lines]
            text.write_text(f"{MAGIC}\n{len(lines)} {builder.blobs}\n" + "\n".join(lines) + "\n")
            weights.write_bytes(b"".join(builder.weights))
            if net.load_param(str(text)) or net.load_model(str(weights)):
                raise RuntimeError("ncnn cannot load the network")
        nets[:] = [net]
        planes = np.ascontiguousarray(file["x"][0, 0].transpose(2, 0, 1))
        image = ncnn.Mat(planes).clone()  # a Mat of an array does not keep the array

        def call():
            extractor = net.create_extractor()
            extractor.input("b0", image)
            status, result = extractor.extract(y)
            if status:
                raise RuntimeError(f"ncnn stopped with status {status}")
            return result

        return {"ncnn's own": call}, np.array(call()).ravel()

    def set_threads(count):
        nets[0].opt.num_threads = count

    serve("ncnn", ncnn.__version__, prepare, set_threads)


if __name__ == "__main__":
    main()
