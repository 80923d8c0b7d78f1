"""`pyconv train`: what it prints and writes, exact resumption, Ctrl-C, and the real data sets."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_folders import write_data
from PIL import Image

import pyconv
from pyconv import course, data, training
from pyconv.layers import Dense, Flatten, Rescaling

PNG = b"\x89PNG"


def read_history(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_files(first, second):
    """Whether two runs left the same history, weights and optimizer state, bit for bit."""
    with h5py.File(first / "model.h5") as a, h5py.File(second / "model.h5") as b:
        names = []
        a.visit(names.append)
        arrays = [name for name in names if isinstance(a[name], h5py.Dataset)]
        assert any(name.startswith("optimizer/") for name in arrays)
        equal = all(np.array_equal(a[name][()], b[name][()]) for name in arrays)
    return equal and (first / "history.csv").read_bytes() == (second / "history.csv").read_bytes()


def test_train(folder, tmp_path, pyconv_command):
    out = tmp_path / "new" / "run"
    status, lines, errors = pyconv_command(
        "train", "--data", folder, "--epochs", 11, "--batch-size", 16, "--learning-rate", 0.01,
        "--threads", 2, "--output", out, "--json",
    )  # fmt: skip
    assert status == 0 and errors == []
    result = json.loads(lines[-1])
    costs = result["costs"]
    expected = [
        "Data: tiny, 50 training and 20 test images of 12x12x3 in 3 classes",
        f"Model: signs; epochs: 11; threads: 2; kernels: {result['isa']}",
        *(f"Cost after epoch {epoch}: {costs[epoch]:f}" for epoch in (0, 5, 10)),
        f"Train Accuracy: {result['train_accuracy']:f}",
        f"Test Accuracy: {result['test_accuracy']:f}",
        f"Wrote model.h5, history.csv, history.png, confusion.png into {out}",
    ]
    assert lines[:-1] == expected
    assert len(costs) == result["epochs"] == 11
    assert costs[-1] < costs[0] and result["train_accuracy"] > 0.5
    assert result["seconds"] > 0
    assert result["threads"] == 2
    assert result["isa"] in ("baseline", "v3", "v4")
    assert result["model"] == "signs"
    history = read_history(out)
    assert [int(row["epoch"]) for row in history] == list(range(11))
    assert [float(row["cost"]) for row in history] == costs
    assert all(0 <= float(row["accuracy"]) <= 1 for row in history)
    for name in ("history.png", "confusion.png"):
        assert (out / name).read_bytes()[:4] == PNG
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion.png", "history.csv", "history.png", "model.h5",
    ]  # fmt: skip


def test_model_file_takes_bytes_of_images(folder, tmp_path, pyconv_command):
    _, lines, _ = pyconv_command(
        "train", "--data", folder, "--epochs", 8, "--output", tmp_path, "--quiet", "--json"
    )
    assert len(lines) == 1
    result = json.loads(lines[0])
    model, tiny = pyconv.load_model(tmp_path / "model.h5"), data.load_folder(folder)
    assert isinstance(model.layers[0], Rescaling) and model.layers[0].scale == 1 / 255
    for x, y, accuracy in (
        (tiny.x_train, tiny.y_train, result["train_accuracy"]),
        (tiny.x_test, tiny.y_test, result["test_accuracy"]),
    ):
        assert (model.predict_classes(x) == y).mean() == accuracy
    assert model.metadata["classes"] == ["0", "1", "2"]


def test_default_output_folder(folder, tmp_path, pyconv_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a second run takes the place of the first
        status, _, errors = pyconv_command("train", "--data", folder, "--epochs", 1)
        assert status == 0 and errors == []
    assert (tmp_path / "runs" / "signs" / "model.h5").is_file()
    pyconv_command("train", "--data", folder, "--epochs", 1, "--model", "lenet5", "--quiet")
    assert (tmp_path / "runs" / "lenet5" / "model.h5").is_file()


def test_signs_is_the_assignment(tmp_path, pyconv_command, capsys):
    """Same weights, same order, same printed costs as `course.model`, to the last bit."""
    folder = write_data(tmp_path / "hands", (64, 64, 3), classes=6, train=150, test=30)
    hands = data.load_folder(folder)
    labels = [course.convert_to_one_hot(y, 6).T for y in (hands.y_train, hands.y_test)]
    train_accuracy, test_accuracy, parameters = course.model(
        hands.x_train / 255, labels[0], hands.x_test / 255, labels[1], num_epochs=6
    )
    printed = capsys.readouterr().out.splitlines()
    status, lines, _ = pyconv_command(
        "train", "--data", folder, "--epochs", 6, "--output", tmp_path, "--json"
    )
    assert status == 0
    assert lines[2:6] == printed
    result = json.loads(lines[-1])
    assert result["train_accuracy"] == train_accuracy
    assert result["test_accuracy"] == test_accuracy
    weights = pyconv.load_model(tmp_path / "model.h5").get_weights()
    for trained, expected in zip(weights, parameters.values(), strict=True):
        np.testing.assert_array_equal(trained, expected)


def test_lenet5_prints_every_epoch(tmp_path, pyconv_command):
    folder = write_data(tmp_path / "digits", (28, 28, 1), classes=4)
    status, lines, _ = pyconv_command(
        "train", "--model", "lenet5", "--data", folder, "--epochs", 3, "--output", tmp_path,
        "--batch-size", 10, "--json",
    )  # fmt: skip
    assert status == 0
    result = json.loads(lines[-1])
    printed = [re.search("loss: ([0-9.]+)", line) for line in lines if "loss" in line]
    assert [float(found[1]) for found in printed] == [float(f"{c:.4g}") for c in result["costs"]]
    assert len(printed) == 3
    optimizer = pyconv.load_model(tmp_path / "model.h5").optimizer
    assert optimizer.learning_rate == 0.002 / (1 + 2 * 2)  # of the third epoch


@pytest.mark.parametrize("name", ["vgg-small", "resnet20"])
def test_networks_for_cifar(name, tmp_path, pyconv_command):
    folder = write_data(tmp_path / "pictures", (16, 16, 3), classes=4)
    status, lines, _ = pyconv_command(
        "train", "--model", name, "--data", folder, "--epochs", 2, "--output", tmp_path,
        "--batch-size", 10, "--json", "--quiet",
    )  # fmt: skip
    assert status == 0
    first, second = json.loads(lines[-1])["costs"]
    assert second < first
    status, lines, _ = pyconv_command("evaluate", tmp_path / "model.h5", "--data", folder)
    assert status == 0


def test_seed_and_threads(folder, tmp_path, pyconv_command):
    def costs(*options):
        _, lines, _ = pyconv_command(
            "train", "--data", folder, "--epochs", 2, "--output", tmp_path, "--quiet", "--json",
            *options,
        )  # fmt: skip
        return json.loads(lines[-1])["costs"]

    default = costs()
    assert default == costs("--seed", 0) == costs("--threads", 1) == costs("--threads", 3)
    other = costs("--seed", 7)
    assert other == costs("--seed", 7, "--threads", 2) != default


def test_threads_are_as_before_afterwards(folder, tmp_path, pyconv_command):
    with pyconv.threads(2):
        train = ("train", "--data", folder, "--epochs", 1, "--output", tmp_path)
        assert pyconv_command(*train, "--threads", 3)[0] == 0
        assert pyconv.get_num_threads() == 2


def test_without_matplotlib(folder, tmp_path, pyconv_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, lines, errors = pyconv_command(
        "train", "--data", folder, "--epochs", 1, "--output", tmp_path / "out"
    )
    assert status == 0 and errors == []
    assert any("pip install 'pyconv-cnn[plot]'" in line for line in lines)
    assert lines[-1] == f"Wrote model.h5, history.csv into {tmp_path / 'out'}"
    assert not (tmp_path / "out" / "history.png").exists()


def test_diverging_training_fails(folder, tmp_path, pyconv_command):
    status, _, errors = pyconv_command(
        "train", "--data", folder, "--output", tmp_path, "--learning-rate", 1e30, "--quiet"
    )
    assert status == 1 and len(errors) == 1
    assert re.fullmatch(
        r"pyconv: error: the cost of epoch \d+ is (nan|inf); a lower learning rate than 1e\+30 "
        "may help",
        errors[0],
    )


# The output folder


def test_output_that_cannot_be_written(folder, tmp_path, pyconv_command, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("trained although the output cannot be written")

    monkeypatch.setattr(training.Run, "fit", never)
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "model.h5").mkdir(parents=True)
    for out in ("file", "file/run", "out"):
        train = ("train", "--data", folder, "--output", tmp_path / out)
        status, lines, errors = pyconv_command(*train)
        assert status == 1 and lines == [] and len(errors) == 1
        assert errors[0].startswith("pyconv: error: ") and str(tmp_path / out) in errors[0]


def test_no_folder_without_a_run(folder, tmp_path, pyconv_command):
    out = tmp_path / "out"
    for options in (("--data", tmp_path / "absent"), ("--data", folder, "--resume")):
        status, _, errors = pyconv_command("train", "--output", out, *options)
        assert status == 1 and len(errors) == 1
        assert not out.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_without_permission(folder, tmp_path, pyconv_command):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, errors = pyconv_command(
        "train", "--data", folder, "--output", tmp_path / "locked", "--quiet"
    )
    assert status == 1 and len(errors) == 1 and "locked" in errors[0]


# --resume and Ctrl-C


@pytest.mark.parametrize(
    "options", [(), ("--seed", "5"), ("--model", "lenet5"), ("--model", "resnet20")]
)
def test_resume_is_exact(folder, tmp_path, pyconv_command, options):
    def train(name, epochs, *more):
        status, lines, errors = pyconv_command(
            "train", "--data", folder, "--output", tmp_path / name, "--epochs", epochs, "--json",
            *more,
        )  # fmt: skip
        assert status == 0, errors
        return json.loads(lines[-1])

    whole = train("whole", 4, *options)
    train("parts", 2, *options)
    resumed = train("parts", 4, "--resume", "--threads", "1")
    assert same_files(tmp_path / "whole", tmp_path / "parts")
    assert not same_files(tmp_path / "whole", _two_epochs(tmp_path, train, options))
    for name in ("costs", "epochs", "train_accuracy", "test_accuracy", "model"):
        assert resumed[name] == whole[name]
    again = train("parts", 3, "--resume")  # there are four epochs already: nothing to do
    assert again["costs"] == whole["costs"]
    assert same_files(tmp_path / "whole", tmp_path / "parts")


def test_says_what_is_left_to_train(folder, tmp_path, pyconv_command):
    def epochs(n, *options):
        train = ("train", "--data", folder, "--output", tmp_path / "out", "--epochs", n)
        _, lines, _ = pyconv_command(*train, *options)
        return lines[1].split(";")[1]

    assert epochs(2) == " epochs: 2"
    assert epochs(3, "--resume") == " epochs: 3, 2 of them done"
    assert epochs(2, "--resume") == " epochs: 3, all done already"


def _two_epochs(tmp_path, train, options):
    train("short", 2, *options)
    return tmp_path / "short"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "32"), "resumed with batch_size 32, since its run has 64"),
        (("--learning-rate", "0.1"), "resumed with learning_rate 0.1, since its run has 0.009"),
        (("--seed", "3"), "resumed with seed 3, since its run has 0"),
        (("--model", "lenet5"), "resumed with model lenet5, since its run has signs"),
    ],
)
def test_resume_with_other_options(folder, model, pyconv_command, options, message):
    status, lines, errors = pyconv_command(
        "train", "--data", folder, "--output", model.parent, "--resume", *options
    )
    assert status == 1 and lines == [] and len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 51}, "images 51"),
        ({"size": (12, 14, 3)}, "image shape (12, 14, 3)"),
        ({"classes": 4}, "classes ('0', '1', '2', '3')"),
    ],
)
def test_resume_with_other_data(tmp_path, model, pyconv_command, changes, message):
    other = write_data(tmp_path / "other", **changes)
    status, _, errors = pyconv_command(
        "train", "--data", other, "--output", model.parent, "--resume"
    )
    assert status == 1 and len(errors) == 1 and message in errors[0]


def test_resume_of_nothing(folder, tmp_path, pyconv_command):
    arguments = ("train", "--data", folder, "--output", tmp_path, "--resume")
    status, _, errors = pyconv_command(*arguments)
    assert status == 1 and len(errors) == 1
    assert "no run to resume" in errors[0]
    network = pyconv.Sequential([Rescaling(1 / 255), Flatten(), Dense(3)], input_shape=(12, 12, 3))
    network.save(tmp_path / "model.h5")
    status, _, errors = pyconv_command(*arguments)
    assert status == 1 and len(errors) == 1
    assert "not written by `pyconv train`" in errors[0]


def test_interrupted_run_is_saved(folder, tmp_path, pyconv_command, monkeypatch):
    order = course.minibatch_order

    def interrupted_in_epoch_3(epoch, m):
        if epoch == 3:
            raise KeyboardInterrupt
        return order(epoch, m)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train = ("train", "--data", folder, "--epochs", 5, "--quiet", "--output")
    assert pyconv_command(*train, whole) == (0, [], [])
    with monkeypatch.context() as patch:
        patch.setattr("pyconv.course.application.minibatch_order", interrupted_in_epoch_3)
        message = (
            f"pyconv: error: interrupted; {parts / 'model.h5'} holds 3 epochs, and --resume goes "
            "on from there"
        )
        assert pyconv_command(*train, parts) == (1, [], [message])
    assert len(read_history(parts)) == 3
    assert pyconv_command(*train, parts, "--resume") == (0, [], [])
    assert same_files(whole, parts)


def test_interrupted_in_the_first_epoch(folder, tmp_path, pyconv_command, monkeypatch):
    def interrupted(epoch, m):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyconv.course.application.minibatch_order", interrupted)
    status, _, errors = pyconv_command("train", "--data", folder, "--output", tmp_path / "out")
    assert status == 1
    assert errors == ["pyconv: error: interrupted in the first epoch, nothing was saved"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c(folder, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "pyconv", "train", "--data", folder, "--output", out, "--epochs",
         "1000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        # A shell's background jobs, and what they start, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / "history.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    found = re.fullmatch(r"pyconv: error: interrupted; .* holds (\d+) epochs.*\n", errors)
    assert found, errors
    assert len(read_history(out)) == int(found[1]) > 0


# Real data


def real(name):
    root = os.environ.get("PYCONV_DATA")
    if not root:
        pytest.skip("PYCONV_DATA is not set")
    return Path(root) / name


def test_signs_photographs(tmp_path, pyconv_command):
    status, lines, _ = pyconv_command(
        "train", "--data", real("signs"), "--epochs", 6, "--output", tmp_path, "--json"
    )
    assert status == 0
    costs = json.loads(lines[-1])["costs"]
    assert costs[0] == pytest.approx(1.9132, abs=0.002)
    assert costs[5] == pytest.approx(1.3388, abs=0.2)


def test_mnist(tmp_path, pyconv_command):
    status, lines, _ = pyconv_command(
        "train", "--data", real("mnist"), "--model", "lenet5", "--output", tmp_path, "--json"
    )
    assert status == 0
    result = json.loads(lines[-1])
    assert result["epochs"] == 3
    assert result["test_accuracy"] >= 0.985
    Image.fromarray(data.read_mnist(real("mnist")).x_test[0, ..., 0]).save(tmp_path / "seven.png")
    _, lines, _ = pyconv_command("predict", tmp_path / "model.h5", tmp_path / "seven.png", "--json")
    assert json.loads(lines[-1])[0]["class"] == "7"


def test_cifar(tmp_path, pyconv_command):
    status, lines, _ = pyconv_command(
        "train", "--data", real("cifar10"), "--model", "vgg-small", "--epochs", 1, "--output",
        tmp_path, "--json",
    )  # fmt: skip
    assert status == 0
    result = json.loads(lines[-1])
    assert result["costs"][0] < 2.25  # of ten classes that are guessed: 2.303
    assert result["test_accuracy"] > 0.2
