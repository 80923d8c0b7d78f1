"""A network as a file that peers can read: its layers as JSON, weights and batches as arrays.

One .npz: "layers" is JSON, a list of {"op": ...}; where it names a weight, that is the array's name.

    conv             w (HWIO), b or null, stride, pads ((top, bottom), (left, right)), relu
    max_pool, avg_pool      window, stride, pads
    global_avg_pool
    batch_norm       gamma, beta, mean, variance, epsilon, momentum (of the running statistics)
    relu
    dense            w (C_in, C_out), b or null, relu, image: (H, W, C) if it reads images, else null
    residual         body, shortcut: lists of such layers; shortcut may be empty

"x" are images (batches, N, H, W, C), "labels" integers (batches, N).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import layers as L  # noqa: N812 (short, for the many names)
from ..geometry import conv_geometry, pool_geometry
from ..model import Sequential


def write(path: Path, model: Sequential, x: np.ndarray, labels: np.ndarray) -> None:
    """Write `model` with its weights, and batches to train it on.

    Raises
    ------
    ValueError
        If a layer has no description.
    """
    arrays: dict[str, np.ndarray] = {}
    described = _describe(model.layers, model.input_shape, arrays)
    arrays |= {"layers": np.array(json.dumps(described)), "x": x, "labels": labels}
    np.savez(path, allow_pickle=False, **arrays)


def _describe(layers: Any, shape: tuple[int, ...], arrays: dict[str, np.ndarray]
              ) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    image: tuple[int, ...] | None = None
    for layer in layers:
        if isinstance(layer, L.Flatten):
            image = shape if len(shape) == 3 else image
        elif isinstance(layer, L.Activation):
            found.append({"op": "relu"})
        elif isinstance(layer, L.Dense):
            found.append({"op": "dense", **_weights(layer, arrays), "relu": bool(layer.activation),
                          "image": image})
            image = None
        elif isinstance(layer, L.Conv2D):
            geometry: Any = conv_geometry((1, *shape), layer.params["w"].shape, layer.strides,
                                          layer.padding, layer.dilation_rate, layer.groups)
            if layer.groups != 1 or geometry.dilation != (1, 1):
                raise ValueError("the peers' networks know no groups and no dilation")
            found.append({"op": "conv", **_weights(layer, arrays), "stride": geometry.stride,
                          "pads": geometry.pads, "relu": bool(layer.activation)})
        elif isinstance(layer, L.MaxPooling2D | L.AveragePooling2D):
            geometry = pool_geometry((1, *shape), layer.pool_size, layer.strides, layer.padding)
            op = "max_pool" if isinstance(layer, L.MaxPooling2D) else "avg_pool"
            found.append({"op": op, "window": geometry.window, "stride": geometry.stride,
                          "pads": geometry.pads})
        elif isinstance(layer, L.GlobalAveragePooling2D):
            found.append({"op": "global_avg_pool"})
        elif isinstance(layer, L.BatchNormalization):
            values = {"gamma": layer.params["gamma"], "beta": layer.params["beta"],
                      "mean": layer.state["moving_mean"],
                      "variance": layer.state["moving_variance"]}
            found.append({"op": "batch_norm", "epsilon": layer.epsilon, "momentum": layer.momentum,
                          **{name: _keep(array, arrays) for name, array in values.items()}})
        elif isinstance(layer, L.Residual):
            found.append({"op": "residual", "body": _describe(layer.body, shape, arrays),
                          "shortcut": _describe(layer.shortcut or [], shape, arrays)})
        else:
            raise ValueError(f"the peers' networks know no {type(layer).__name__}")
        shape = layer.output_shape
    return found


def _weights(layer: Any, arrays: dict[str, np.ndarray]) -> dict[str, str | None]:
    return {name: _keep(layer.params[name], arrays) if name in layer.params else None
            for name in ("w", "b")}


def _keep(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = f"a{len(arrays)}"
    arrays[name] = array
    return name
