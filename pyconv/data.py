"""Data sets: uint8 images (N, H, W, C) with integer labels, from a folder or drawn.

`load_folder` recognises what a folder holds: the assignment's two HDF5 files (`read_signs`),
MNIST's four idx files (`read_mnist`) or one .npz file (`read_npz`). `embedded` gives the drawn hand
signs of `pyconv.signs`. Every reader checks sizes, types and labels; its errors name the file, the
data set in it, what was found and what was expected.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNS_FILES = ("train_signs.h5", "test_signs.h5")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Directory = str | os.PathLike[str]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Attributes
    ----------
    x_train, x_test : ndarray of shape (N, H, W, C), uint8
    y_train, y_test : ndarray of shape (N,), int64
        Indices into `classes`.
    classes : tuple of str
        The name of each class.
    name : str
        Where the images came from: the folder's name, or "embedded".
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    classes: tuple[str, ...]
    name: str


def load_folder(directory: Directory) -> Dataset:
    """Read the data set in `directory`, whichever of the three kinds it is.

    Parameters
    ----------
    directory : path
        A folder with `train_signs.h5` and `test_signs.h5`; or with MNIST's four idx files, gzipped
        or not; or with one .npz file holding `x_train`, `y_train`, `x_test` and `y_test`.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds none of the three, or only some of their files.
    ValueError
        If a file is damaged or does not hold what it should.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of data")
    found = {path.name for path in folder.iterdir()}
    if found.intersection(SIGNS_FILES):
        return _from_course_layout(*read_signs(folder), name=folder.resolve().name)
    if found.intersection(name + suffix for name in MNIST_FILES for suffix in ("", ".gz")):
        return read_mnist(folder)
    if any(name.endswith(".npz") for name in found):
        return read_npz(folder)
    raise FileNotFoundError(
        f"{folder}: holds no data set; looked for {' and '.join(SIGNS_FILES)}, for MNIST's "
        f"{', '.join(MNIST_FILES)} (or .gz), and for one .npz file with {', '.join(NPZ_ARRAYS)}"
    )


def embedded() -> Dataset:
    """The drawn hand signs of `pyconv.signs`: 1080 + 120 images (64, 64, 3), 0 to 5 fingers."""
    from . import signs

    return _from_course_layout(*signs.load(), name="embedded")


def read_signs(directory: Directory) -> tuple[Images, Labels, Images, Labels, NDArray[Any]]:
    """Read the assignment's HDF5 files, `train_signs.h5` and `test_signs.h5`.

    Parameters
    ----------
    directory : path
        The folder that holds both.

    Returns
    -------
    x_train : ndarray of shape (m, 64, 64, 3), uint8
    y_train : ndarray of shape (1, m), int64
    x_test, y_test
        The same for the test images.
    classes : ndarray of shape (num_classes,)
        `list_classes` of the test file, where the assignment takes it from.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is truncated or no HDF5, or one of its data sets is missing, is of another shape
        or type, or holds labels that are no index into `list_classes`.
    """
    train, test = (Path(directory) / name for name in SIGNS_FILES)
    x_train, y_train, _ = _read_hdf5(train, "train_set_x", "train_set_y")
    x_test, y_test, classes = _read_hdf5(test, "test_set_x", "test_set_y")
    return x_train, y_train[np.newaxis], x_test, y_test[np.newaxis], classes


def read_mnist(directory: Directory) -> Dataset:
    """Read MNIST's four idx files, or any set in that format, each gzipped or not.

    Parameters
    ----------
    directory : path
        The folder that holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
        `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, with or without `.gz`.

    Returns
    -------
    Dataset
        Images (N, rows, columns, 1), for MNIST itself (60000, 28, 28, 1) and (10000, 28, 28, 1).

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is truncated, too long, of another magic number, or the four do not fit together.
    """
    folder = Path(directory)
    paths = [_plain_or_gzipped(folder / name) for name in MNIST_FILES]
    x_train, y_train, x_test, y_test = (
        _read_idx(path, ndim) for path, ndim in zip(paths, (3, 1, 3, 1), strict=True)
    )
    arrays = (x_train[..., np.newaxis], y_train, x_test[..., np.newaxis], y_test)
    return _from_arrays(arrays, [str(path) for path in paths], folder.resolve().name)


def read_npz(directory: Directory) -> Dataset:
    """Read the one .npz file in `directory`, as `numpy.savez` writes it.

    Parameters
    ----------
    directory : path
        A folder with exactly one .npz file. It holds `x_train` and `x_test`, uint8 images of shape
        (N, H, W, C) or (N, H, W), and `y_train` and `y_test`, integers of shape (N,) or (N, 1).

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If there is no .npz file.
    ValueError
        If there are several, or the file is damaged, or an array is missing, is of another shape or
        type, or the four do not fit together.
    """
    folder = Path(directory)
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{folder}: no .npz file with {', '.join(NPZ_ARRAYS)}")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(f"{folder}: {len(files)} .npz files ({names}); expected exactly one")
    path = files[0]
    sources = [f"{path}: {name}" for name in NPZ_ARRAYS]
    arrays = _npz_arrays(path)
    for i in (0, 2):
        if arrays[i].ndim == 3:
            arrays[i] = arrays[i][..., np.newaxis]
        _expect(sources[i], arrays[i], (None, None, None, None), np.uint8)
    for i in (1, 3):
        if arrays[i].ndim == 2 and arrays[i].shape[1] == 1:
            arrays[i] = arrays[i][:, 0]
        _expect(sources[i], arrays[i], (None,), np.integer)
    return _from_arrays(arrays, sources, folder.resolve().name)


# One file


def _read_hdf5(path: Path, x_name: str, y_name: str) -> tuple[Images, Labels, NDArray[Any]]:
    """Images, labels and `list_classes` of one of the assignment's files."""
    import h5py

    wanted = (
        (x_name, (None, 64, 64, 3), np.uint8),
        (y_name, (None,), np.integer),
        ("list_classes", (None,), np.integer),
    )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: missing; expected an HDF5 file with {x_name}, {y_name} and list_classes"
        )
    where = str(path)
    arrays = []
    try:
        with h5py.File(path, "r") as file:
            for name, shape, kind in wanted:
                where = f"{path}: {name}"
                if not isinstance(file.get(name), h5py.Dataset):
                    raise ValueError(
                        f"{where}: missing; expected {_words(shape, kind)}; "
                        f"the file holds {', '.join(file) or 'nothing'}"
                    )
                _expect(where, file[name], shape, kind)  # before its values are read
                arrays.append(file[name][...])
    except (OSError, RuntimeError) as error:  # h5py's words for a truncated or damaged file
        raise ValueError(
            f"{where}: cannot be read ({error}); expected an HDF5 file with {x_name}, {y_name} and "
            "list_classes"
        ) from error
    x, y, classes = arrays
    _check_pair(f"{path}: {x_name}", x, f"{path}: {y_name}", y, len(classes))
    return x, y.astype(np.int64), classes


def _plain_or_gzipped(path: Path) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{path}: missing, and so is {path.name}.gz")


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array of an idx file: bytes 0, 0, 8 (uint8), ndim; big-endian sizes; the values."""
    import gzip
    import zlib

    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: {error}; expected an undamaged gzip file") from error
    magic = bytes((0, 0, 8, ndim))
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != magic:
        raise ValueError(
            f"{path}: {len(content)} bytes that begin with {content[:4].hex(' ')}; expected an idx "
            f"file of {ndim}-dimensional bytes, which begins with {magic.hex(' ')}"
        )
    shape = np.frombuffer(content, ">u4", ndim, offset=4).tolist()
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path}: {len(content) - header} bytes follow the header; expected {math.prod(shape)} "
            f"for the shape {tuple(shape)} written there"
        )
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    _expect(str(path), values, (None,) * ndim, np.uint8)
    return values


def _npz_arrays(path: Path) -> list[NDArray[Any]]:
    import zipfile
    import zlib

    where = str(path)
    arrays = []
    try:
        with open(path, "rb") as raw, np.load(raw) as file:
            for name in NPZ_ARRAYS:
                where = f"{path}: {name}"
                if name not in file:
                    raise ValueError(f"missing; the file holds {', '.join(file) or 'nothing'}")
                arrays.append(file[name])
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{where}: {error}; expected arrays {', '.join(NPZ_ARRAYS)}") from error
    return arrays


# Checks


def _words(shape: tuple[int | None, ...], kind: type) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return f"{kind.__name__} of shape ({sizes})"


def _expect(where: str, array: Any, shape: tuple[int | None, ...], kind: type) -> None:
    """Check type and shape; None in `shape` is any size of at least 1."""
    found = array.shape or ()  # h5py: None for a data set without values
    fits = len(found) == len(shape) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(found, shape, strict=True)
    )
    if not fits or not np.issubdtype(array.dtype, kind):
        raise ValueError(f"{where}: {array.dtype} of shape {found}; expected {_words(shape, kind)}")


def _check_range(where: str, y: NDArray[Any], num_classes: int) -> None:
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"{where}: labels from {y.min()} to {y.max()}; expected 0 to {num_classes - 1}, "
            f"since there are {num_classes} classes"
        )


def _check_pair(x_where: str, x: Images, y_where: str, y: NDArray[Any], num_classes: int) -> None:
    _check_range(y_where, y, num_classes)
    if len(x) != len(y):
        raise ValueError(
            f"{y_where}: {len(y)} labels; expected {len(x)}, one for each image of {x_where}"
        )


def _from_arrays(arrays: Sequence[NDArray[Any]], sources: Sequence[str], name: str) -> Dataset:
    """A `Dataset` whose classes are 0 to the largest label of x_train, y_train, x_test, y_test."""
    x_train, y_train, x_test, y_test = arrays
    num_classes = int(max(y_train.max(), y_test.max())) + 1
    _check_pair(sources[0], x_train, sources[1], y_train, num_classes)
    _check_pair(sources[2], x_test, sources[3], y_test, num_classes)
    if x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"{sources[2]}: images of shape {x_test.shape[1:]}; expected {x_train.shape[1:]}, "
            f"as in {sources[0]}"
        )
    classes = tuple(str(label) for label in range(num_classes))
    return Dataset(
        x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64), classes, name
    )


def _from_course_layout(
    x_train: Images,
    y_train: Labels,
    x_test: Images,
    y_test: Labels,
    classes: NDArray[Any],
    *,
    name: str,
) -> Dataset:
    return Dataset(x_train, y_train[0], x_test, y_test[0], tuple(str(c) for c in classes), name)
