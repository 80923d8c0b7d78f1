"""The outputs published with the assignments, from `published_values.json`."""

import json
from pathlib import Path

import numpy as np
import pytest

import pyconv
from pyconv import course
from pyconv.course import philox

PUBLISHED = json.loads(Path(__file__).with_name("published_values.json").read_text())
ENTRIES = PUBLISHED["step_by_step"] + PUBLISHED["application"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_published(entry):
    names = {"np": np, "pyconv": pyconv, "philox": philox, **vars(course)}
    exec(entry["recipe"], names)
    assert entry["checks"]
    for check in entry["checks"]:
        actual = np.asarray(eval(check["expr"], names), dtype=float)
        expected = np.asarray(check["expected"], dtype=float)
        assert actual.shape == expected.shape, check["expr"]
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=check["atol"], err_msg=check["expr"]
        )
