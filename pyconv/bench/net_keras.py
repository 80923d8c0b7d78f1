"""Runs Keras's networks (on TensorFlow) for `pyconv bench networks --peer keras`.

Training is timed as `fit` does it: a call is one `fit` over all batches, divided by their number.
Inference is `predict_on_batch`.
"""

# mypy: disable-error-code="import-not-found"

import json
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped,unused-ignore]
from keras import layers as L  # noqa: N812
from peer_protocol import serve


def padded(x, pads):
    return L.ZeroPadding2D(pads)(x) if any(map(any, pads)) else x


def apply(x, layers, file, weights):
    """Keras's layers on `x`; `weights` collects each layer that has some, with their values."""
    for p in layers:
        op = p["op"]
        relu = "relu" if p.get("relu") else None
        if op == "conv":
            w = file[p["w"]]
            layer = L.Conv2D(w.shape[3], w.shape[:2], p["stride"], activation=relu,
                             use_bias=bool(p["b"]))
            x = layer(padded(x, p["pads"]))
            weights.append((layer, [file[name] for name in (p["w"], p["b"]) if name]))
        elif op == "dense":
            w = file[p["w"]]
            layer = L.Dense(w.shape[1], activation=relu, use_bias=bool(p["b"]))
            x = layer(L.Flatten()(x))
            weights.append((layer, [file[name] for name in (p["w"], p["b"]) if name]))
        elif op in ("max_pool", "avg_pool"):
            if any(map(any, p["pads"])):
                raise ValueError("Keras pools without explicit padding")
            pool = L.MaxPooling2D if op == "max_pool" else L.AveragePooling2D
            x = pool(p["window"], p["stride"])(x)
        elif op == "global_avg_pool":
            x = L.GlobalAveragePooling2D()(x)
        elif op == "batch_norm":
            layer = L.BatchNormalization(momentum=p["momentum"], epsilon=p["epsilon"])
            x = layer(x)
            weights.append((layer, [file[p[name]] for name in ("gamma", "beta", "mean", "variance")]))
        elif op == "residual":
            x = L.Add()([apply(x, p["body"], file, weights), apply(x, p["shortcut"], file, weights)])
        else:
            x = L.ReLU()(x)
    return x


def network(file):
    x = keras.Input(file["x"].shape[2:])
    weights = []
    model = keras.Model(x, apply(x, json.loads(str(file["layers"])), file, weights))
    for layer, values in weights:
        layer.set_weights(values)
    return model


def prepare(problem, direction):
    file = np.load(problem["file"])
    model, x, labels = network(file), file["x"], file["labels"]
    if direction != "train":
        images = tf.constant(x[0, :int(direction.removeprefix("infer_"))])
        forward = tf.function(lambda batch: model(batch, training=False))
        forward(images)
        return {"nhwc": lambda: forward(images)}, forward(images).numpy().ravel()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    losses = np.array([float(model.train_on_batch(a, b)) for a, b in zip(x, labels, strict=True)])
    batches = tf.data.Dataset.from_tensor_slices((x, labels)).cache().prefetch(2)

    def fit():
        model.fit(batches, verbose=0)

    fit()
    fit.steps = len(x)
    return {"nhwc": fit}, losses


def set_threads(count):
    """TensorFlow fixes its pools at the first operation: `main` was told by the environment."""
    if count != THREADS:
        raise ValueError(f"TensorFlow was started with {THREADS} threads")


THREADS = int(os.environ.get("PYCONV_PEER_THREADS") or os.cpu_count() or 1)

if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    serve("Keras", f"{keras.__version__} (TensorFlow {tf.__version__})", prepare, set_threads)
