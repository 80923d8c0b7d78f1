"""Readers of data sets: what they return, and that a bad file is named with what was expected."""

import gzip
import struct

import h5py
import numpy as np
import pytest

from pyconv import data


def write_signs(folder, train=7, test=3, **changes):
    """The assignment's two files; `changes` replaces a data set, or leaves it out with None."""
    rng = np.random.default_rng(0)
    for part, m in (("train", train), ("test", test)):
        sets = {
            f"{part}_set_x": rng.integers(0, 256, (m, 64, 64, 3), dtype=np.uint8),
            f"{part}_set_y": np.arange(m) % 6,
            "list_classes": np.arange(6),
        }
        sets |= {name: value for name, value in changes.items() if name in sets}
        with h5py.File(folder / f"{part}_signs.h5", "w") as file:
            for name, value in sets.items():
                if value is not None:
                    file[name] = value


def idx(array, magic=None):
    array = np.asarray(array, np.uint8)
    head = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, suffix="", **changes):
    rng = np.random.default_rng(0)
    contents = {
        "train-images-idx3-ubyte": idx(rng.integers(0, 256, (5, 28, 28))),
        "train-labels-idx1-ubyte": idx([3, 1, 4, 1, 9]),
        "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (2, 28, 28))),
        "t10k-labels-idx1-ubyte": idx([2, 6]),
    }
    for name, content in contents.items():
        content = changes.get(name.split("-idx")[0].replace("-", "_"), content)
        if content is not None:
            content = gzip.compress(content) if suffix else content
            (folder / (name + suffix)).write_bytes(content)


def npz_arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 12, 10, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "x_test": rng.integers(0, 256, (2, 12, 10, 3), dtype=np.uint8),
        "y_test": np.array([1, 3], np.uint8),
    }


def write_npz(folder, **changes):
    arrays = npz_arrays() | changes
    np.savez(folder / "set.npz", **{k: v for k, v in arrays.items() if v is not None})


# The assignment's HDF5 files


def test_read_signs(tmp_path):
    write_signs(tmp_path)
    x_train, y_train, x_test, y_test, classes = data.read_signs(tmp_path)
    assert x_train.shape == (7, 64, 64, 3) and x_train.dtype == np.uint8
    assert x_test.shape == (3, 64, 64, 3) and x_test.dtype == np.uint8
    np.testing.assert_array_equal(y_train, [[0, 1, 2, 3, 4, 5, 0]])
    np.testing.assert_array_equal(y_test, [[0, 1, 2]])
    assert y_train.dtype == y_test.dtype == np.int64
    np.testing.assert_array_equal(classes, range(6))
    with h5py.File(tmp_path / "train_signs.h5") as file:
        np.testing.assert_array_equal(x_train, file["train_set_x"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_set_x": None}, r"train_signs\.h5: train_set_x: missing.*train_set_y"),
        ({"test_set_y": None}, r"test_signs\.h5: test_set_y: missing"),
        ({"list_classes": None}, r"train_signs\.h5: list_classes: missing"),
        (
            {"train_set_x": np.zeros((7, 32, 32, 3), np.uint8)},
            r"train_set_x: uint8 of shape \(7, 32, 32, 3\); expected uint8 of shape "
            r"\(any, 64, 64, 3\)",
        ),
        ({"test_set_x": np.zeros((3, 64, 64), np.uint8)}, r"test_set_x: uint8 of shape"),
        ({"train_set_x": np.zeros((7, 64, 64, 3))}, "train_set_x: float64 of shape"),
        ({"train_set_x": h5py.Empty("u1")}, r"train_set_x: uint8 of shape \(\)"),
        ({"train_set_x": np.zeros((0, 64, 64, 3), np.uint8)}, r"train_set_x: .*\(0, 64"),
        ({"train_set_y": np.arange(6)}, "train_set_y: 6 labels; expected 7.*train_set_x"),
        ({"train_set_y": np.arange(7) * 0.5}, "train_set_y: float64"),
        ({"test_set_y": np.array([0, 6, 1])}, "test_set_y: labels from 0 to 6; expected 0 to 5"),
        ({"test_set_y": np.array([0, -1, 1])}, "test_set_y: labels from -1 to 1"),
    ],
)
def test_wrong_signs(tmp_path, changes, message):
    write_signs(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        data.read_signs(tmp_path)


def test_signs_missing_or_truncated(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_signs\.h5: missing.*train_set_x"):
        data.read_signs(tmp_path)
    write_signs(tmp_path)
    path = tmp_path / "test_signs.h5"
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"test_signs\.h5.*test_set_x, test_set_y"):
            data.read_signs(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test_signs\.h5: missing.*test_set_x"):
        data.load_folder(tmp_path)


def test_signs_damaged_values(tmp_path):
    write_signs(tmp_path)
    path = tmp_path / "train_signs.h5"
    with h5py.File(path, "w") as file:
        x = np.zeros((4, 64, 64, 3), np.uint8)
        file.create_dataset("train_set_x", data=x, chunks=(1, 64, 64, 3), compression="gzip")
        file["train_set_y"], file["list_classes"] = np.arange(4), np.arange(6)
        chunk = file["train_set_x"].id.get_chunk_info(1)
    with open(path, "r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    with pytest.raises(ValueError, match=r"train_signs\.h5: train_set_x: cannot be read"):
        data.read_signs(tmp_path)


# MNIST's idx files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_mnist(tmp_path, suffix):
    write_mnist(tmp_path, suffix)
    mnist = data.load_folder(tmp_path)
    assert mnist.x_train.shape == (5, 28, 28, 1) and mnist.x_test.shape == (2, 28, 28, 1)
    assert mnist.x_train.dtype == np.uint8
    np.testing.assert_array_equal(mnist.y_train, [3, 1, 4, 1, 9])
    np.testing.assert_array_equal(mnist.y_test, [2, 6])
    assert mnist.y_train.dtype == np.int64
    assert mnist.classes == tuple("0123456789")
    assert mnist.name == tmp_path.name
    expected = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    np.testing.assert_array_equal(mnist.x_train[..., 0], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": idx(np.zeros((5, 28, 28)))[:-1]}, "3919 bytes follow.*expected 3920"),
        ({"train_images": idx(np.zeros((5, 28, 28))) + b"0"}, "3921 bytes follow"),
        ({"train_images": idx(np.zeros((5, 784)))}, "begin with 00 00 08 02; expected.*08 03"),
        ({"train_images": idx(np.zeros((5, 28, 28)), b"\0\0\x0d\3")}, "begin with 00 00 0d 03"),
        ({"train_images": idx(np.zeros((0, 28, 28)))}, r"uint8 of shape \(0, 28, 28\)"),
        ({"train_images": b"\0\0\x08\3\0\0"}, "6 bytes that begin with 00 00 08 03"),
        ({"train_labels": b""}, "train-labels-idx1-ubyte: 0 bytes"),
        ({"train_labels": idx([1, 2, 3, 4])}, "train-labels.*4 labels; expected 5"),
        ({"t10k_images": idx(np.zeros((2, 14, 14)))}, r"\(14, 14, 1\); expected \(28, 28, 1\)"),
    ],
)
def test_wrong_mnist(tmp_path, changes, message):
    write_mnist(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        data.read_mnist(tmp_path)


def test_mnist_missing_or_truncated_gzip(tmp_path):
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    damaged = content[:200] + bytes(100) + content[300:]
    for bad in (content[: len(content) // 2], damaged, b"no gzip"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: .*gzip"):
            data.read_mnist(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte: missing"):
        data.load_folder(tmp_path)


# One .npz


def test_read_npz(tmp_path):
    write_npz(tmp_path)
    got, wanted = data.load_folder(tmp_path), npz_arrays()
    for name, array in wanted.items():
        np.testing.assert_array_equal(getattr(got, name), array)
    assert got.x_train.dtype == np.uint8 and got.y_train.dtype == np.int64
    assert got.classes == ("0", "1", "2", "3")  # 3 appears in the test set only


def test_npz_without_channels_and_with_label_columns(tmp_path):
    arrays = npz_arrays()
    write_npz(
        tmp_path,
        x_train=arrays["x_train"][..., 0],
        x_test=arrays["x_test"][..., 0],
        y_train=arrays["y_train"][:, None],
    )
    got = data.load_folder(tmp_path)
    assert got.x_train.shape == (6, 12, 10, 1)
    np.testing.assert_array_equal(got.y_train, arrays["y_train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, r"set\.npz: y_train: missing; the file holds x_train, x_test, y_test"),
        ({"x_train": np.zeros((6, 12, 10, 3))}, "x_train: float64.*expected uint8"),
        ({"x_train": np.zeros((6, 9), np.uint8)}, r"x_train: uint8 of shape \(6, 9\)"),
        ({"y_test": np.zeros((2, 4), np.uint8)}, r"y_test: uint8 of shape \(2, 4\)"),
        ({"y_test": np.array([0.0, 1.0])}, "y_test: float64 .*expected integer"),
        ({"y_test": np.array([0, -1])}, "y_test: labels from -1"),
        ({"y_test": np.array([0])}, "y_test: 1 labels; expected 2"),
        ({"x_test": np.zeros((2, 9, 9, 3), np.uint8)}, r"x_test: images of shape \(9, 9, 3\)"),
        ({"x_train": np.array([None])}, r"x_train: Object arrays cannot be loaded"),
    ],
)
def test_wrong_npz(tmp_path, changes, message):
    write_npz(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        data.read_npz(tmp_path)


def test_npz_damaged_or_several(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.npz file"):
        data.read_npz(tmp_path)
    write_npz(tmp_path)
    path = tmp_path / "set.npz"
    content = path.read_bytes()
    flipped = content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]
    np.save(tmp_path / "one.npy", np.zeros(3))
    one_array = (tmp_path / "one.npy").read_bytes()
    for bad in (content[:-100], content[:50], flipped, one_array, b"", b"text"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"set\.npz.*expected arrays x_train, y_train"):
            data.load_folder(tmp_path)
    write_npz(tmp_path)
    path.with_name("other.npz").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"2 \.npz files \(other\.npz, set\.npz\)"):
        data.load_folder(tmp_path)


# Which of them


def test_load_folder_recognises_signs(tmp_path):
    write_signs(tmp_path)
    signs = data.load_folder(str(tmp_path))
    np.testing.assert_array_equal(signs.y_train, [0, 1, 2, 3, 4, 5, 0])
    assert signs.classes == tuple("012345")


def test_load_folder_says_what_it_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    looked_for = r"train_signs\.h5 and test_signs\.h5.*train-images-idx3-ubyte.*npz"
    with pytest.raises(FileNotFoundError, match=looked_for):
        data.load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        data.load_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"notes\.txt: no such folder"):
        data.load_folder(tmp_path / "notes.txt")


def test_embedded():
    signs = data.embedded()
    assert signs.x_train.shape == (1080, 64, 64, 3) and signs.x_test.shape == (120, 64, 64, 3)
    assert signs.y_train.shape == (1080,) and signs.y_test.shape == (120,)
    assert signs.classes == tuple("012345")
    assert signs.name == "embedded"
