"""Runs OpenVINO's inference for `pyconv bench networks --peer openvino`, in float32."""

# mypy: disable-error-code="import-not-found"

from typing import Any

import numpy as np
import openvino
from net_onnx import images_of, model_of, size_of
from peer_protocol import serve

core = openvino.Core()
state: dict[str, Any] = {}


def set_threads(count):
    if state.get("threads") != count:
        compiled = core.compile_model(state["model"], "CPU", {
            "INFERENCE_NUM_THREADS": count, "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY"})
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(state["images"], shared_memory=True))
        state.update(threads=count, request=request)


def prepare(problem, direction):
    file, size = np.load(problem["file"]), size_of(direction)
    state.clear()
    state.update(model=core.read_model(model_of(file, size)), images=images_of(file, size))
    set_threads(1)

    def call():
        state["request"].infer()
        return state["request"].get_output_tensor().data

    return {"nchw": call}, call().ravel()


if __name__ == "__main__":
    serve("OpenVINO", openvino.__version__.split("-")[0], prepare, set_threads)
