"""A network file as an ONNX model, for the peers that read those: NCHW, as they like it best."""

# mypy: disable-error-code="import-not-found"

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and initializers."""

    def __init__(self, file):
        self.file, self.nodes, self.constants = file, [], []

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def apply(self, x, layers):
        for p in layers:
            op = p["op"]
            pads = [side[i] for i in (0, 1) for side in p["pads"]] if "pads" in p else None
            if op in ("conv", "dense"):
                w = self.file[p["w"]]
                bias = [self.constant(self.file[p["b"]])] if p["b"] else []
            if op == "conv":
                x = self.node("Conv", x, self.constant(w.transpose(3, 2, 0, 1)), *bias,
                              strides=p["stride"], pads=pads, kernel_shape=w.shape[:2])
            elif op == "dense":
                if p["image"]:
                    x = self.node("Flatten", x)
                    w = w.reshape(*p["image"], -1).transpose(2, 0, 1, 3).reshape(w.shape)
                x = self.node("Gemm", x, self.constant(w), *bias)
            elif op == "max_pool":
                x = self.node("MaxPool", x, kernel_shape=p["window"], strides=p["stride"], pads=pads)
            elif op == "avg_pool":
                x = self.node("AveragePool", x, kernel_shape=p["window"], strides=p["stride"],
                              pads=pads)
            elif op == "global_avg_pool":
                x = self.node("Flatten", self.node("GlobalAveragePool", x))
            elif op == "batch_norm":
                values = [self.constant(self.file[p[name]])
                          for name in ("gamma", "beta", "mean", "variance")]
                x = self.node("BatchNormalization", x, *values, epsilon=p["epsilon"])
            elif op == "residual":
                x = self.node("Add", self.apply(x, p["body"]), self.apply(x, p["shortcut"]))
            else:
                x = self.node("Relu", x)
            if p.get("relu"):
                x = self.node("Relu", x)
        return x


def model_of(file, size):
    """The ONNX model for the images of `images_of`, serialized."""
    batch, h, w, c = file["x"].shape[1:]
    builder = Builder(file)
    y = builder.apply("x", json.loads(str(file["layers"])))
    graph = helper.make_graph(
        builder.nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [min(size, batch), c, h, w])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], builder.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def images_of(file, size):
    """The first `size` images, NCHW."""
    return np.ascontiguousarray(file["x"][0, :size].transpose(0, 3, 1, 2))


def size_of(direction):
    """How many images `direction` infers; only these peers' inference has a call."""
    if not direction.startswith("infer_"):
        raise ValueError("it infers, and does not train")
    return int(direction.removeprefix("infer_"))
