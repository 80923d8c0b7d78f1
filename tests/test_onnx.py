"""The ONNX project's own backend cases, as far as they ask for what pyconv computes.

One test item an operator; which cases there are depends on the version of `onnx`, which the extra
`test` fixes. A case that is left out says why, and both counts are asserted.
"""

import collections
import functools
import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest

import pyconv

onnx = pytest.importorskip("onnx")
loader = pytest.importorskip("onnx.backend.test.loader")
adapter = pytest.importorskip("onnx_adapter")


def load(case):
    """A case's model, and its (inputs, outputs)."""
    if case.model_dir is None:
        return case.model, case.data_sets
    folder = Path(case.model_dir)

    def arrays(data, kind):
        count = len(list(data.glob(f"{kind}_*.pb")))
        files = (data / f"{kind}_{number}.pb" for number in range(count))
        return [onnx.numpy_helper.to_array(onnx.load_tensor(file)) for file in files]

    sets = [(arrays(data, "input"), arrays(data, "output"))
            for data in sorted(folder.glob("test_data_set_*"))]  # fmt: skip
    return onnx.load(folder / "model.onnx"), sets


@functools.cache
def cases_of():
    """{operator: [case, ...]}. Left out: operators spelled out as others, whose models are long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other operators' cases, such as log(0)
        cases = loader.load_model_tests(kind="node")
    for kind in ("pytorch-converted", "pytorch-operator"):
        cases = cases + loader.load_model_tests(kind=kind)
    found = collections.defaultdict(list)
    for case in cases:
        model, sets = load(case)
        for operator in {node.op_type for node in model.graph.node}:
            if "_expanded" not in case.name:
                found[operator].append((case, model, sets))
    return found


def outcome(case, model, sets):
    """ "passed", or why it was left out."""
    assert sets
    for inputs, outputs in sets:
        try:
            results = adapter.run(model, inputs)
        except adapter.NotOursError as reason:
            return str(reason)
        for got, wanted in zip(results, outputs, strict=True):
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), case.name
            np.testing.assert_allclose(got, wanted, case.rtol, case.atol, err_msg=case.name)
    return "passed"


# Three dimensions are not pyconv's, uint8 is none of its dtypes, losses come as their mean.
EXPECTED = {
    "Conv": ("conv2d", {"passed": 26, "3-D": 7}),
    "ConvTranspose": ("conv2d_transpose", {"passed": 13, "3-D": 1}),
    "MaxPool": ("max_pool2d", {"passed": 20, "3-D": 7, "dtype uint8": 1}),
    "AveragePool": ("avg_pool2d", {"passed": 18, "3-D": 9}),
    "GlobalAveragePool": ("global_avg_pool2d", {"passed": 2}),
    "GlobalMaxPool": ("global_max_pool2d", {"passed": 2}),
    "BatchNormalization": ("batch_norm", {"passed": 9}),
    "Softmax": ("softmax", {"passed": 11}),
    "SoftmaxCrossEntropyLoss": (
        "softmax_cross_entropy.class_weight", {"passed": 26, "a loss for each row": 8}),
}  # fmt: skip


def exists(needed):
    """Whether pyconv has a function, or a function.keyword."""
    name, _, keyword = needed.partition(".")
    function = getattr(pyconv, name, None)
    return function and (not keyword or keyword in inspect.signature(function).parameters)


@pytest.mark.parametrize("operator", EXPECTED)
def test_backend_cases(operator):
    needed, expected = EXPECTED[operator]
    if not exists(needed):
        pytest.skip(f"pyconv has no {needed}")
    assert collections.Counter(outcome(*case) for case in cases_of()[operator]) == expected
