"""ONNX models as calls of pyconv: NCHW to NHWC and back, attributes to keywords, 1-D lifted to H = 1.

Only what the backend cases of pyconv's operations need: `run(model, inputs)`. What pyconv does not
compute raises NotOursError with the reason.
"""

import numpy as np
from onnx import helper, numpy_helper

import pyconv

AUTO_PAD = {"VALID": "valid", "SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


class NotOursError(Exception):
    """Why pyconv does not compute a node."""


def run(model, inputs):
    """The model's outputs, in their order."""
    graph, opset = model.graph, model.opset_import[0].version
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    given = [value.name for value in graph.input if value.name not in values]
    values |= dict(zip(given, inputs, strict=True))
    for node in graph.node:
        if node.op_type not in NODES:
            raise NotOursError(f"{node.op_type} is not an operation of pyconv")
        arrays = [values[name] if name else None for name in node.input]
        if arrays[0].dtype not in (np.float32, np.float64):
            raise NotOursError(f"dtype {arrays[0].dtype}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        results = NODES[node.op_type](*arrays, opset=opset, outputs=len(node.output), **attributes)
        results = results if isinstance(results, tuple) else (results,)
        values |= dict(zip(node.output, results, strict=True))
    return [values[value.name] for value in graph.output]


# ------------------------------------------------------------------------------------- layouts


def to_nhwc(x):
    """A batch (N, C, W) or (N, C, H, W) as NHWC."""
    if x.ndim not in (3, 4):
        raise NotOursError(f"{x.ndim - 2}-D")
    return np.moveaxis(x[:, :, None] if x.ndim == 3 else x, 1, -1)


def from_nhwc(y, like):
    """NHWC as NCHW, or as NCW if `like` is."""
    y = np.moveaxis(y, -1, 1)
    return y[:, :, 0] if like.ndim == 3 else y


def to_hwio(w):
    """Filters (C_out, C_in // groups, KH, KW), or without KH, as HWIO."""
    return (w[:, :, None] if w.ndim == 3 else w).transpose(2, 3, 1, 0)


def lifted(values, dims, fill):
    """One number an axis, as (h, w)."""
    values = [fill] * dims if values is None else list(values)
    return tuple([fill] * (2 - dims) + values)


def padding(pads, auto_pad, dims):
    """ONNX's (begins, ends), or its name of a rule, as pyconv's padding."""
    if auto_pad not in (b"NOTSET", b"VALID"):
        return AUTO_PAD[auto_pad.decode()]
    pads = [0] * 2 * dims if pads is None else list(pads)
    return tuple(zip(lifted(pads[:dims], dims, 0), lifted(pads[dims:], dims, 0), strict=True))


# --------------------------------------------------------------------------------------- nodes


def conv(x, w, b=None, *, strides=None, dilations=None, pads=None, auto_pad=b"NOTSET", group=1, **_):
    dims = x.ndim - 2
    images = to_nhwc(x)
    y = pyconv.conv2d(
        images, to_hwio(w), b, stride=lifted(strides, dims, 1), groups=group,
        dilation=lifted(dilations, dims, 1), padding=padding(pads, auto_pad, dims),
    )  # fmt: skip
    return from_nhwc(y, x)


def conv_transpose(x, w, b=None, *, strides=None, dilations=None, pads=None, auto_pad=b"NOTSET",
                   group=1, output_padding=None, output_shape=None, **_):  # fmt: skip
    dims = x.ndim - 2
    images, filters = to_nhwc(x), to_hwio(w)
    stride, dilation = lifted(strides, dims, 1), lifted(dilations, dims, 1)
    extra, crop = lifted(output_padding, dims, 0), padding(pads, auto_pad, dims)
    if output_shape is not None:  # what is too much is cropped, what is missing is added behind
        wanted = lifted(output_shape[-dims:], dims, 1)
        total = [(n - 1) * s + (k - 1) * d + 1 + e - out for n, s, k, d, e, out in zip(
            images.shape[1:3], stride, filters.shape[:2], dilation, extra, wanted, strict=True)]
        extra = tuple(e + max(0, -t) for e, t in zip(extra, total, strict=True))
        halves = [(max(0, t) // 2, max(0, t) - max(0, t) // 2) for t in total]
        crop = tuple(pair if auto_pad == b"SAME_UPPER" else pair[::-1] for pair in halves)
    y = pyconv.conv2d_transpose(
        images, filters, b, stride=stride, dilation=dilation, padding=crop, output_padding=extra,
        groups=group)  # fmt: skip
    return from_nhwc(y, x)


def max_pool(x, *, kernel_shape, outputs, strides=None, dilations=None, pads=None,
             auto_pad=b"NOTSET", ceil_mode=0, storage_order=0, **_):  # fmt: skip
    dims = x.ndim - 2
    images = to_nhwc(x)
    y, winners = pyconv.max_pool2d(
        images, lifted(kernel_shape, dims, 1), stride=lifted(strides, dims, 1),
        dilation=lifted(dilations, dims, 1), padding=padding(pads, auto_pad, dims),
        ceil_mode=bool(ceil_mode), return_indices=True,
    )  # fmt: skip
    if outputs == 1:
        return from_nhwc(y, x)
    _, H, W, _ = images.shape
    if storage_order:
        winners = winners % W * H + winners // W
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], 1, 1, x.shape[1])
    return from_nhwc(y, x), from_nhwc(winners + planes * (H * W), x)


def average_pool(x, *, kernel_shape, strides=None, dilations=None, pads=None, auto_pad=b"NOTSET",
                 ceil_mode=0, count_include_pad=0, **_):  # fmt: skip
    dims = x.ndim - 2
    images = to_nhwc(x)
    y = pyconv.avg_pool2d(
        images, lifted(kernel_shape, dims, 1), stride=lifted(strides, dims, 1),
        dilation=lifted(dilations, dims, 1), padding=padding(pads, auto_pad, dims),
        ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad),
    )  # fmt: skip
    return from_nhwc(y, x)


def global_average_pool(x, **_):
    y = pyconv.global_avg_pool2d(to_nhwc(x))
    return y.reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))


def global_max_pool(x, **_):
    y = pyconv.global_max_pool2d(to_nhwc(x))
    return y.reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))


def batch_normalization(x, scale, bias, mean, variance, *, epsilon=1e-5, momentum=0.9,
                        training_mode=0, **_):  # fmt: skip
    rows = np.moveaxis(x, 1, -1)
    if not training_mode:
        y = pyconv.batch_norm(rows, scale, bias, mean=mean, var=variance, epsilon=epsilon)
        return np.moveaxis(y, -1, 1)
    moving = mean.copy(), variance.copy()
    y, _, _ = pyconv.batch_norm(
        rows, scale, bias, epsilon=epsilon, moving=moving, momentum=momentum)
    return np.moveaxis(y, -1, 1), *moving


def softmax(x, *, opset, axis=None, **_):
    if opset >= 13:
        axis = -1 if axis is None else axis
        return np.moveaxis(pyconv.softmax(np.moveaxis(x, axis, -1)), -1, axis)
    rows = x.reshape(int(np.prod(x.shape[: 1 if axis is None else axis])), -1)
    return pyconv.softmax(rows).reshape(x.shape)  # all axes from `axis` on are one


def softmax_cross_entropy_loss(logits, labels, weights=None, *, outputs, reduction=b"mean",
                               ignore_index=None, **_):  # fmt: skip
    if reduction == b"none":
        raise NotOursError("a loss for each row")
    C = logits.shape[1]
    rows, places = np.moveaxis(logits, 1, -1).reshape(-1, C), labels.reshape(-1)
    kept = np.ones(len(rows), bool) if ignore_index is None else places != ignore_index
    rows, places = rows[kept], places[kept]
    weighted = {} if weights is None else {"class_weight": weights}
    loss, _ = pyconv.softmax_cross_entropy(rows, places, **weighted)
    total = loss * len(rows)
    share = len(rows) if weights is None else weights[places].sum()
    loss = logits.dtype.type(total if reduction == b"sum" else total / share)
    if outputs == 1:
        return np.asarray(loss)
    return np.asarray(loss), np.log(softmax(logits, opset=13, axis=1))


NODES = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "Neg": lambda x, **_: -x,
    "Softmax": softmax,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy_loss,
    "Squeeze": lambda x, *, axes, **_: np.squeeze(x, tuple(axes)),
    "Unsqueeze": lambda x, *, axes, **_: np.expand_dims(x, tuple(axes)),
}
