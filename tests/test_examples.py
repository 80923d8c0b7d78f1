"""The example scripts write what examples/README.md says, and give the lecture's numbers."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[!_]*.py") if path.name != "cifar10.py")


def promised(script: str) -> set[str]:
    """Names of the files that the README's table says the script writes."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{script}` \|.*\| (.*) \|$", readme, re.MULTILINE)
    assert row, f"examples/README.md has no row for {script}"
    return set(re.findall(r"`(.*?)`", row[1]))


def read_table(path: Path) -> list[list[str]]:
    """Rows of a Markdown table, without the two of its head."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_writes_what_the_readme_promises(script, tmp_path):
    files = promised(script)
    pictures = [tmp_path / "new" / name for name in files if name.endswith(".png")]
    if pictures:
        pytest.importorskip("matplotlib", reason=f"{script} draws with matplotlib")
    command = [sys.executable, EXAMPLES / script, "--output", "new"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == files
    assert all(name in done.stdout for name in files)
    for path in pictures:
        from matplotlib.image import imread

        picture = imread(path)
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.1, f"{path} is blank"


def test_cifar10_trains_on_a_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 150)
    images = rng.integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:50],
             y_test=labels[:50])
    command = [sys.executable, EXAMPLES / "cifar10.py", tmp_path, "--epochs", "1", "--seeds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"pyconv (\w+): mean (0\.\d{3}), deviation 0\.\d{3}", done.stdout)
    assert [name for name, _ in found] == ["vgg_small", "resnet20"]
    assert promised("cifar10.py") == set()


def test_picture_without_matplotlib_names_the_extra(example, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match=re.escape("pip install 'pyconv-cnn[plot]'")):
        example("pooling").main(tmp_path)


def test_edges_of_the_6x6_images(example):
    edges = example("edge_detection")
    plain = edges.detect(edges.BRIGHT_TO_DARK, edges.VERTICAL)
    np.testing.assert_array_equal(plain, [[0, 30, 30, 0]] * 4)
    np.testing.assert_array_equal(edges.detect(edges.DARK_TO_BRIGHT, edges.VERTICAL), -plain)
    np.testing.assert_array_equal(
        edges.detect(edges.CHEQUERED, edges.VERTICAL.T),
        [[0, 0, 0, 0], [30, 10, -10, -30], [30, 10, -10, -30], [0, 0, 0, 0]],
    )
    for kernel, strength in ((edges.SOBEL, 40), (edges.SCHARR, 160)):
        found = edges.detect(edges.BRIGHT_TO_DARK, kernel)
        np.testing.assert_array_equal(found, [[0, strength, strength, 0]] * 4)


def test_sizes_with_padding(example):
    padding = example("padding")
    # padding, n, f, s: zeros before and behind, output
    lecture = {
        ("valid", 6, 3, 1): (0, 0, 4),
        ("same", 6, 3, 1): (1, 1, 6),
        ("same", 6, 5, 1): (2, 2, 6),
        ("same", 6, 4, 1): (1, 2, 6),
        ("valid", 39, 3, 1): (0, 0, 37),
        ("valid", 7, 3, 2): (0, 0, 3),
    }
    rows = {row[:4]: row[4:] for row in padding.table()}
    assert {case: rows[case] for case in lecture} == lecture


def test_corners_count_less_without_padding(example):
    padding = example("padding")
    once = np.array([1, 2, 3, 3, 2, 1])
    np.testing.assert_array_equal(padding.views(6, 3, "valid"), np.outer(once, once))
    once = np.array([2, 3, 3, 3, 3, 2])
    np.testing.assert_array_equal(padding.views(6, 3, "same"), np.outer(once, once))


def test_strided_convolution(example):
    # The slide's 83 and 127 are slips of its arithmetic: the sums are 88 and 117.
    expected = [[91, 100, 88], [69, 91, 117], [44, 72, 74]]
    np.testing.assert_array_equal(example("strided_convolution").convolve(2), expected)


def test_strided_convolution_sizes(example, tmp_path):
    pytest.importorskip("matplotlib", reason="the script draws with matplotlib")
    example("strided_convolution").main(tmp_path)
    rows = read_table(tmp_path / "strided_convolution.md")
    assert rows == [["1", "5x5"], ["2", "3x3"], ["3", "2x2"], ["4", "2x2"]]


def test_convolution_over_volumes(example):
    result = example("convolution_over_volumes").convolve()
    assert result.shape == (4, 4, 2)
    np.testing.assert_array_equal(result[:, :, 0], [[0, 30, 30, 0]] * 4)
    np.testing.assert_array_equal(result[:, :, 1].T, [[0, 30, 30, 0]] * 4)


def test_pooling(example):
    pooling = example("pooling")
    largest, mean = pooling.pool(pooling.IMAGE_4X4, 2, 2)
    np.testing.assert_array_equal(largest, [[9, 2], [6, 3]])
    np.testing.assert_array_equal(mean, [[3.75, 1.25], [3.75, 2]])
    largest, mean = pooling.pool(pooling.IMAGE_5X5, 3, 1)
    np.testing.assert_array_equal(largest, [[9, 9, 5], [9, 9, 5], [8, 6, 9]])
    np.testing.assert_allclose(mean * 9, [[24, 25, 20], [34, 28, 20], [34, 26, 25]], rtol=1e-6)


def test_lenet5_table(example, tmp_path):
    example("lenet5").main(tmp_path)
    assert read_table(tmp_path / "lenet5.md") == [
        ["input", "(32, 32, 3)", "3,072", "0"],
        ["CONV1 (f=5, s=1)", "(28, 28, 8)", "6,272", "608"],
        ["POOL1 (f=2, s=2)", "(14, 14, 8)", "1,568", "0"],
        ["CONV2 (f=5, s=1)", "(10, 10, 16)", "1,600", "3,216"],
        ["POOL2 (f=2, s=2)", "(5, 5, 16)", "400", "0"],
        ["flatten", "(400,)", "400", "0"],
        ["FC3", "(120,)", "120", "48,120"],
        ["FC4", "(84,)", "84", "10,164"],
        ["softmax", "(10,)", "10", "850"],
        ["total", "", "", "62,958"],
    ]


def test_why_convolutions_table(example, tmp_path):
    example("why_convolutions").main(tmp_path)
    assert read_table(tmp_path / "why_convolutions.md") == [
        ["six 5x5 filters", "456", "75", "784"],
        ["dense", "14,455,392", "3,072", "1"],
    ]
