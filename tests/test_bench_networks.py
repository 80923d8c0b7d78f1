"""`pyconv bench networks`: its file for the peers, its comparison with them, and a run of it."""

import json
import os
import sys

import numpy as np
import pytest

from pyconv import zoo
from pyconv.bench import network_file, networks
from pyconv.bench.peer import PeerCannotError
from pyconv.bench.problem import sample
from pyconv.bench.reference import WrongResultError
from pyconv.cli import main
from pyconv.layers import Dropout, Flatten
from pyconv.model import Sequential

QUICK = ["bench", "networks", "--only", "lenet5", "--rounds", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(networks, "ROUND", 0.001)
    monkeypatch.setattr(networks, "PAUSE", 0.0)
    monkeypatch.setattr(networks, "STEPS", 2)
    monkeypatch.setattr(networks, "BATCH", 4)


class Fake:
    """A peer that gives what it is told to."""

    name, layouts = "Fake", ("a", "b")

    def __init__(self, result):
        self.result, self.times = result, iter([0.5, 0.25, 1.0, 1.0])

    def prepare_problem(self, problem, direction):
        if direction != "infer_1":
            raise PeerCannotError("not mine")
        assert os.path.exists(problem["file"])
        return self.result

    def time(self, layout, threads, seconds):
        return next(self.times)


def test_the_file_has_layers_weights_and_batches(tmp_path):
    model = zoo.resnet20(seed=0)
    x, labels = np.zeros((2, 4, 32, 32, 3), np.float32), np.zeros((2, 4), int)
    network_file.write(tmp_path / "net.npz", model, x, labels)
    with np.load(tmp_path / "net.npz") as file:
        layers = json.loads(str(file["layers"]))
        assert [layer["op"] for layer in layers[:4]] == ["conv", "batch_norm", "relu", "residual"]
        assert file[layers[0]["w"]].tobytes() == model.layers[0].params["w"].tobytes()
        assert layers[0]["pads"] == [[1, 1], [1, 1]] and layers[0]["b"] is None
        assert layers[-1]["op"] == "dense" and layers[-1]["image"] is None
        assert len(layers[3]["body"]) == 5 and layers[3]["shortcut"] == []
        assert file["x"].shape == x.shape and file["labels"].shape == labels.shape


def test_a_dense_layer_knows_the_image_that_it_reads(tmp_path):
    network_file.write(tmp_path / "net.npz", zoo.lenet5(), np.zeros((1, 1, 28, 28, 1)), np.zeros((1, 1)))
    with np.load(tmp_path / "net.npz") as file:
        dense = [p for p in json.loads(str(file["layers"])) if p["op"] == "dense"]
    assert [p["image"] for p in dense] == [[5, 5, 16], None, None]


def test_what_peers_do_not_know_is_an_error(tmp_path):
    model = Sequential([Flatten(), Dropout(0.5)], input_shape=(2, 2, 1))
    with pytest.raises(ValueError, match="know no Dropout"):
        network_file.write(tmp_path / "net.npz", model, np.zeros(1), np.zeros(1))


def test_a_peer_is_compared_then_timed_in_its_best_layout(tmp_path):
    network = networks.Network("lenet5", tmp_path)
    _, y = network.prepare("infer_1")
    fake = Fake(sample(y, 10))
    ((row,), (other,)) = [networks._measure(network, mode, [1], 2, [fake])
                          for mode in ("infer_1", "train")]
    assert row.peer_rounds == {"Fake": {"a": [0.5, 1.0], "b": [0.25, 1.0]}}
    assert row.peer_seconds("Fake") == 0.25 and row.fastest == 0.25 / row.seconds
    assert row.is_unsteady
    assert other.peer_rounds == {} and other.fastest is None
    with pytest.raises(WrongResultError, match="lenet5 infer_1, beside Fake: differs"):
        networks._measure(network, "infer_1", [1], 1, [Fake(sample(y, 10) + 1)])


def test_a_run_prints_and_writes_what_it_measured(tmp_path, capsys):
    out = tmp_path / "networks.json"
    assert main([*QUICK, "--threads", "1,2", "--profile", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    for line in ("network     mode", "two threads over one", "conv2d + max_pooling2d"):
        assert line in text
    written = json.loads(out.read_text())
    assert written["section"] == "networks"
    found = {(row["network"], row["mode"], row["threads"]) for row in written["rows"]}
    assert found == {("lenet5", mode, count) for mode in networks.MODES for count in (1, 2)}
    assert {row["operation"] for row in written["profile"]} >= {"dense", "dense_1", "dense_2"}


def test_memory_is_measured_in_a_process_of_its_own(capsys):
    assert main([*QUICK, "--mode", "infer_1", "--memory"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[:2] == ["lenet5", "pyconv"] and int(line.split()[2]) < 500


@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "alexnet"], "there is no network alexnet"),
    (["--plot", "x.png"], "--plot draws layers and threads"),
    (["--mode", "dream"], "unknown dream"),
])
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "networks", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_peers_of_networks_are_refused_for_layers(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "layers", "--small", "--peer", "keras"])
    assert "keras cannot be measured layer by layer" in capsys.readouterr().err


needs_peers = pytest.mark.skipif(
    not os.environ.get("PYCONV_PEER_PYTHON"),
    reason="PYCONV_PEER_PYTHON names no Python that has PyTorch, ONNX Runtime, OpenVINO and ncnn")


@needs_peers
def test_real_peers_agree(capsys):
    names = "torch,onnxruntime,openvino,ncnn"
    assert main(["bench", "networks", "--rounds", "1", "--peer", names]) == 0
    assert "geometric mean" in capsys.readouterr().out


def test_missing_peers_are_a_message(capsys):
    assert main([*QUICK, "--mode", "infer_1", "--peer", "torch", "--peer-python",
                 sys.executable + "-none"]) == 0
    assert "without torch" in capsys.readouterr().err
