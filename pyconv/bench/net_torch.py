"""Runs PyTorch's networks for `pyconv bench networks --peer torch`; network_file.py has the file.

Training is the ordinary loop: forward pass, cross-entropy, backward pass, Adam (fused, PyTorch's
fastest). Both memory layouts are tried. Where pads are uneven, `F.pad` comes first.
"""

# mypy: disable-error-code="import-not-found"

import json

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own custom)
from peer_protocol import serve
from torch import nn

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Padded(nn.Module):
    """A convolution or pool behind zeros that differ from side to side."""

    def __init__(self, pads, module):
        super().__init__()
        (top, bottom), (left, right) = pads
        self.pads, self.module = (left, right, top, bottom), module

    def forward(self, x):
        return self.module(F.pad(x, self.pads))


class Residual(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def padded(pads, make):
    """`make(padding)`: by the module's own padding where both sides are alike."""
    (top, bottom), (left, right) = pads
    return make((top, left)) if top == bottom and left == right else Padded(pads, make((0, 0)))


def filled(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return module


def modules(layers, file):
    """PyTorch's modules for a list of layers."""
    made = []
    for p in layers:
        op = p["op"]
        if op in ("conv", "dense"):
            w, values = file[p["w"]], {}
            if p["b"]:
                values["bias"] = file[p["b"]]
        if op == "conv":
            kh, kw, c, k = w.shape
            made.append(padded(p["pads"], lambda pad, c=c, k=k, kh=kh, kw=kw, p=p, w=w, v=values:
                               filled(nn.Conv2d(c, k, (kh, kw), p["stride"], pad, bias=bool(v)),
                                      weight=w.transpose(3, 2, 0, 1), **v)))
        elif op == "dense":
            if p["image"]:  # PyTorch's images flatten channel by channel
                made.append(nn.Flatten())
                w = w.reshape(*p["image"], -1).transpose(2, 0, 1, 3).reshape(w.shape)
            made.append(filled(nn.Linear(*w.shape, bias=bool(values)), weight=w.T, **values))
        elif op == "max_pool":
            made.append(padded(p["pads"], lambda pad, p=p: nn.MaxPool2d(p["window"], p["stride"], pad)))
        elif op == "avg_pool":
            made.append(padded(p["pads"], lambda pad, p=p: nn.AvgPool2d(
                p["window"], p["stride"], pad, count_include_pad=False)))
        elif op == "global_avg_pool":
            made += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        elif op == "batch_norm":
            made.append(filled(
                nn.BatchNorm2d(len(file[p["gamma"]]), p["epsilon"], 1 - p["momentum"]),
                weight=file[p["gamma"]], bias=file[p["beta"]], running_mean=file[p["mean"]],
                running_var=file[p["variance"]]))
        elif op == "residual":
            made.append(Residual(modules(p["body"], file), modules(p["shortcut"], file)))
        else:
            made.append(nn.ReLU())
        if p.get("relu"):
            made.append(nn.ReLU())
    return nn.Sequential(*made)


def train(file, layout):
    """One call is one step, on the batches in turn; and the losses of the first steps."""
    net = modules(json.loads(str(file["layers"])), file).to(memory_format=layout)
    x = [torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous(memory_format=layout)
         for batch in file["x"]]
    labels = torch.from_numpy(file["labels"])
    adam = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-7, fused=True)
    count = 0

    def step():
        nonlocal count
        i, count = count % len(x), count + 1
        adam.zero_grad()
        loss = F.cross_entropy(net(x[i]), labels[i])
        loss.backward()
        adam.step()
        return loss.item()

    return step, np.array([step() for _ in x])


def infer(file, layout, size):
    """One call is one pass over `size` images; and the outputs for them."""
    net = modules(json.loads(str(file["layers"])), file).to(memory_format=layout).eval()
    x = torch.from_numpy(file["x"][0, :size]).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def call():
        with torch.inference_mode():
            return net(x)

    return call, call().numpy().ravel()


def prepare(problem, direction):
    file = np.load(problem["file"])
    calls = {}
    for name, layout in list(LAYOUTS.items())[-1:] if problem.get("one_layout") else LAYOUTS.items():
        calls[name], result = (train(file, layout) if direction == "train"
                               else infer(file, layout, int(direction.removeprefix("infer_"))))
    return calls, result


if __name__ == "__main__":
    serve("PyTorch", torch.__version__, prepare, torch.set_num_threads)
