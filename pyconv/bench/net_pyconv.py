"""Trains pyconv's networks in a process of its own, so that `pyconv bench networks` sees its memory."""

import json
import sys
from pathlib import Path

# This folder comes first on the path of a script, and has files named like others.
sys.path.append(sys.path.pop(0))

import numpy as np

import pyconv
from pyconv.bench.networks import NETWORKS
from pyconv.bench.peer_protocol import serve


def prepare(problem, direction):
    file = np.load(problem["file"])
    assert direction == "train" and json.loads(str(file["layers"]))
    model = NETWORKS[Path(problem["file"]).stem](seed=0)
    model.compile(pyconv.Adam(1e-3))
    batches = list(zip(file["x"], file["labels"], strict=True))

    def step():
        return model.train_on_batch(*batches[0])

    return {"nhwc": step}, np.array([model.train_on_batch(x, y) for x, y in batches])


if __name__ == "__main__":
    serve("pyconv", pyconv.__version__, prepare, pyconv.set_num_threads)
