"""The command line but for `pyconv train`: what it prints, and errors of one line."""

import json
import os
import re
import subprocess
import sys

import pytest
from data_folders import write_data
from PIL import Image

import pyconv
from pyconv import data
from pyconv.layers import Dense, Flatten, Rescaling

# evaluate


def test_evaluate(folder, model, pyconv_command):
    status, lines, _ = pyconv_command("evaluate", model, "--data", folder, "--json")
    assert status == 0
    result = json.loads(lines[-1])
    network, tiny = pyconv.load_model(model), data.load_folder(folder)
    loss, accuracy = network.evaluate(tiny.x_test, tiny.y_test)
    assert result["accuracy"] == accuracy
    assert result["loss"] == pytest.approx(loss, rel=1e-6)
    assert result["images"] == 20
    status, lines, _ = pyconv_command("evaluate", model, "--data", folder)
    assert status == 0
    expected = f"accuracy {accuracy:f}, loss {result['loss']:f} on 20 test images of tiny"
    assert lines == [expected]


@pytest.mark.parametrize("changes", [{"size": (28, 28, 1)}, {"classes": 4}])
def test_evaluate_on_other_data(tmp_path, model, pyconv_command, changes):
    other = write_data(tmp_path / "other", **changes)
    status, _, errors = pyconv_command("evaluate", model, "--data", other)
    assert status == 1 and len(errors) == 1
    assert "takes images of 12x12x3 in 3 classes" in errors[0]


# predict


def test_predict(folder, model, tmp_path, pyconv_command):
    tiny, network = data.load_folder(folder), pyconv.load_model(model)
    probabilities = network.predict_proba(tiny.x_test[:4])
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, x in zip(paths, tiny.x_test, strict=False):
        Image.fromarray(x).save(path)
    status, lines, _ = pyconv_command("predict", model, *paths, "--json")
    assert status == 0
    results = json.loads(lines[-1])
    for path, row, result in zip(paths, probabilities, results, strict=True):
        assert result["image"] == str(path)
        assert result["class"] == str(row.argmax())
        assert result["probability"] == pytest.approx(row.max())
        assert list(result["probabilities"]) == ["0", "1", "2"]
        assert list(result["probabilities"].values()) == pytest.approx(row)
    status, lines, _ = pyconv_command("predict", model, *paths)
    assert status == 0
    expected = [f"{r['image']}: {r['class']} (probability {r['probability']:.4f})" for r in results]
    assert lines == expected


def test_predict_of_bad_files(model, tmp_path, pyconv_command):
    Image.new("RGB", (20, 30)).save(tmp_path / "good.png")
    Image.effect_noise((100, 100), 50).save(tmp_path / "noise.jpg")
    (tmp_path / "short.jpg").write_bytes((tmp_path / "noise.jpg").read_bytes()[:1500])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("short.jpg", "text.png", "empty.png", "absent.png", ""):
        path = tmp_path / name
        status, lines, errors = pyconv_command("predict", model, tmp_path / "good.png", path)
        assert status == 1 and lines == [] and len(errors) == 1
        assert errors[0].startswith("pyconv: error: ") and str(path) in errors[0]


def test_predict_without_pillow(model, tmp_path, pyconv_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, _, errors = pyconv_command("predict", model, tmp_path / "x.png")
    assert status == 1 and len(errors) == 1
    assert "pip install 'pyconv-cnn[image]'" in errors[0]


def test_predict_by_a_model_of_ones_own(tmp_path, pyconv_command):
    Image.new("RGB", (20, 30)).save(tmp_path / "x.png")
    path = tmp_path / "own.h5"

    def save(*layers, input_shape=(8, 8, 3)):
        pyconv.Sequential(layers, input_shape=input_shape, seed=0).save(path)
        return pyconv_command("predict", path, tmp_path / "x.png")

    status, lines, _ = save(Rescaling(1 / 255), Flatten(), Dense(4))
    assert status == 0
    assert re.fullmatch(r".*x\.png: [0-3] \(probability 0\.\d{4}\)", lines[0])
    for layers, input_shape, message in (
        ((Flatten(), Dense(4)), (8, 8, 3), "Rescaling(1 / 255) as its first layer"),
        ((Rescaling(1 / 255), Flatten(), Dense(4)), (8, 8, 2), "takes 2 channels"),
        ((Dense(4),), (9,), "expected a network that classifies images"),
    ):
        status, lines, errors = save(*layers, input_shape=input_shape)
        assert status == 1 and lines == [] and len(errors) == 1
        assert message in errors[0]


# info


def test_info(pyconv_command):
    status, lines, _ = pyconv_command("info", "--json")
    assert status == 0
    facts = json.loads(lines[-1])
    assert facts == json.loads(json.dumps(pyconv.info()))
    status, lines, _ = pyconv_command("info")
    assert status == 0
    assert [line.split()[0] for line in lines] == list(facts)
    assert any(pyconv.__version__ in line for line in lines)


def test_version(pyconv_command):
    assert pyconv_command("--version") == (0, [f"pyconv {pyconv.__version__}"], [])


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fly", "invalid choice: 'fly'"),
        ("train --colour red", "unrecognized arguments: --colour red"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3"),  # no abbreviations
        ("train --epochs 0", "'0' is no whole number of at least 1"),
        ("train --epochs many", "'many' is no whole number"),
        ("train --batch-size -1", "'-1' is no whole number of at least 1"),
        ("train --threads 2000", "'2000' is no whole number from 1 to 1024"),
        ("train --seed 1.5", "'1.5' is no whole number of at least 0"),
        ("train --learning-rate 0", "'0' is no number above 0"),
        ("train --learning-rate nan", "'nan' is no number above 0"),
        ("train --model alexnet", "invalid choice: 'alexnet'"),
        ("evaluate", "required: MODEL"),
        ("predict model.h5", "required: IMAGE"),
        ("bench", "required"),
        ("info now", "unrecognized arguments: now"),
    ],
)
def test_wrong_usage(pyconv_command, arguments, message):
    status, lines, errors = pyconv_command(*arguments.split())
    assert status == 2 and lines == [] and len(errors) == 1
    assert errors[0].startswith("pyconv: error: ") and message in errors[0]


def test_without_a_command(pyconv_command):
    status, lines, errors = pyconv_command()
    assert status == 2
    assert lines[0].startswith("usage: pyconv") and any("predict" in line for line in lines)
    assert len(errors) == 1 and "choose a command" in errors[0]


@pytest.mark.parametrize("command", ["", "train", "evaluate", "predict", "bench", "info"])
def test_help(pyconv_command, command):
    status, lines, errors = pyconv_command(*command.split(), "--help")
    assert status == 0 and errors == []
    assert lines[0].startswith(f"usage: pyconv {command}".strip())


def bad_folder(tmp_path, name, content):
    folder = tmp_path / "bad"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_signs.h5", b"\x89HDF\r\n\x1a\n and no more", "train_signs.h5: cannot be read"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3", "train-labels-idx1-ubyte: missing"),
        ("set.npz", b"PK\3\4 and no more", "set.npz"),
        ("readme.txt", b"", "holds no data set; looked for train_signs.h5"),
    ],
)
def test_bad_data(tmp_path, model, pyconv_command, command, name, content, message):
    where = ("--output", tmp_path / "out") if command == "train" else (model,)
    folder = bad_folder(tmp_path, name, content)
    status, lines, errors = pyconv_command(command, *where, "--data", folder)
    assert status == 1 and lines == [] and len(errors) == 1
    assert errors[0].startswith("pyconv: error: ") and message in errors[0]


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_bad_model(tmp_path, model, pyconv_command, command):
    Image.new("RGB", (20, 30)).save(tmp_path / "x.png")
    more = (tmp_path / "x.png",) if command == "predict" else ()
    truncated, text = tmp_path / "truncated.h5", tmp_path / "text.h5"
    truncated.write_bytes(model.read_bytes()[:3000])
    text.write_text("no model")
    for path in (truncated, text, tmp_path / "absent.h5", tmp_path):
        status, lines, errors = pyconv_command(command, path, *more)
        assert status == 1 and lines == [] and len(errors) == 1
        assert errors[0].startswith("pyconv: error: ") and str(path) in errors[0]


# As a process


def run_module(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pyconv", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def test_as_module(tmp_path):
    done = run_module("info", "--json", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["version"] == pyconv.__version__
    done = run_module("evaluate", "absent.h5", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "pyconv: error: there is no model file absent.h5\n"
    assert run_module("evaluate", cwd=tmp_path).returncode == 2


def test_closed_pipe(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "pyconv", "info"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert errors == "pyconv: error: standard output was closed before all was written\n"


def test_impossible_kernels(tmp_path):
    done = run_module("info", cwd=tmp_path, env={**os.environ, "PYCONV_ISA": "v9"})
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "PYCONV_ISA='v9'" in done.stderr


def test_help_imports_nothing_heavy(run_python):
    done = run_python(
        "import sys\n"
        "from pyconv import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "except SystemExit:\n"
        "    print(sorted({'h5py', 'tqdm', 'matplotlib', 'PIL'} & set(sys.modules)))\n"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
