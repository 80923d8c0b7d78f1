"""Runs ONNX Runtime's inference for `pyconv bench networks --peer onnxruntime`."""

# mypy: disable-error-code="import-not-found"

from typing import Any

import numpy as np
import onnxruntime
from net_onnx import images_of, model_of, size_of
from peer_protocol import serve

state: dict[str, Any] = {}


def session(threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(state["model"], options, ["CPUExecutionProvider"])


def set_threads(count):
    if state.get("threads") != count:
        state.update(threads=count, session=session(count))


def prepare(problem, direction):
    file, size = np.load(problem["file"]), size_of(direction)
    feed = {"x": images_of(file, size)}
    state.clear()
    state["model"] = model_of(file, size)
    set_threads(1)

    def call():
        return state["session"].run(None, feed)[0]

    return {"nchw": call}, call().ravel()


if __name__ == "__main__":
    serve("ONNX Runtime", onnxruntime.__version__, prepare, set_threads)
