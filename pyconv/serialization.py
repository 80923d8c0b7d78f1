"""The model file: a model as JSON and arrays, in an HDF5 file written whole or not at all.

    /            attributes: format "pyconv model", format_version, pyconv_version
    /config      JSON: layers, input shape, optimizer, state of the random generator, metadata
    /weights/LAYER/PARAMETER, /optimizer/SLOT      arrays

`pack` and `unpack` go between a model and (config, arrays), `write` and `read` between those and
the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import losses, optimizers
from ._arguments import choose
from ._version import __version__
from .layers import Shape
from .layers.base import describe, restored

if TYPE_CHECKING:
    from .model import Sequential

FORMAT = "pyconv model"
FORMAT_VERSION = 1

Array = NDArray[Any]
Config = dict[str, Any]


def pack(model: Sequential) -> tuple[Config, dict[str, Array]]:
    """All of a model: what JSON can say, and arrays by name.

    Raises
    ------
    TypeError
        If a layer or the optimizer is not pyconv's own.
    """
    config: dict[str, Any] = {
        "layers": [describe(layer) for layer in model.layers],
        "input_shape": model.input_shape if model.built else None,
        "seed": model.seed,
        "fuse": model.fuse,
        "dtype": model.dtype.name,
        "rng": model.rng.bit_generator.state if model.built else None,
        "metadata": model.metadata,
        "training": None,
    }
    arrays = _weights_by_name(model) if model.built else {}
    if model.compiled:
        optimizer = model.optimizer
        name = type(optimizer).__name__.lower()
        if optimizers.OPTIMIZERS.get(name) is not type(optimizer):
            raise TypeError(f"{type(optimizer)} is no optimizer of pyconv: it cannot be saved")
        if losses.LOSSES.get(model.loss.name) is not type(model.loss):
            raise TypeError(f"{type(model.loss)} is no loss of pyconv: it cannot be saved")
        config["training"] = {
            "optimizer": name,
            "optimizer_config": optimizer.get_config(),
            "iterations": optimizer.iterations,
            "slots": list(optimizer.slots),
            "loss": model.loss.name,
            "loss_config": model.loss.get_config(),
            "metrics": model.metrics,
        }
        arrays |= {f"optimizer/{name}": array for name, array in optimizer.slots.items()}
    return config, arrays


def unpack(make: type[Sequential], config: Config, arrays: dict[str, Array]) -> Sequential:
    """The model that `pack` took apart, made by the class `make`.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError
        If `config` and `arrays` are not what `pack` gives.
    """
    model = make(
        [restored(_tuples(entry)) for entry in config["layers"]],
        input_shape=config["input_shape"],
        seed=config["seed"],
        dtype=config["dtype"],
        fuse=config["fuse"],
    )
    if model.built:
        for name, view in _weights_by_name(model).items():
            view[...] = _stored(arrays, name, view.shape)
        model.rng.bit_generator.state = config["rng"]
    model.metadata = config["metadata"]
    if training := config["training"]:
        optimizer = optimizers.OPTIMIZERS[training["optimizer"]](**training["optimizer_config"])
        optimizer.iterations = training["iterations"]
        optimizer.slots = {
            name: _stored(arrays, f"optimizer/{name}", model.parameters.shape).astype(model.dtype)
            for name in training["slots"]
        }
        loss = losses.LOSSES[choose(training["loss"], "loss", losses.LOSSES)]
        # Files of version 0.1 know one loss, without options.
        model.compile(optimizer, loss(**training.get("loss_config", {})), training["metrics"])
    return model


def write(path: str | os.PathLike[str], config: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write `config` and `arrays` to `path`, in place of what is there.

    Parameters
    ----------
    path : str or PathLike
        Its folder must exist. It holds the old file or the new one at any moment, also after a
        crash: the new one is written beside it, flushed to the disk and renamed.
    config : dict
        What JSON can say.
    arrays : dict of str to ndarray
        Keys such as "weights/conv2d/w".

    Raises
    ------
    TypeError
        If JSON cannot say `config`.
    OSError
        If the file cannot be written.
    """
    import h5py

    path = Path(path)
    try:
        text = json.dumps(config, default=_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{path}: the model's configuration or metadata: {error}") from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["pyconv_version"] = __version__
            # A data set, because HDF5's attributes end at 64 KB.
            file.create_dataset("config", data=text)
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The `config` and `arrays` that `write` put into the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a model file, is damaged, or was written by a newer version.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    arrays: dict[str, Array] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name != "config":
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError("it has no attribute format='pyconv model'")
            if (found := int(file.attrs["format_version"])) > FORMAT_VERSION:
                raise ValueError(
                    f"its format version is {found}, this pyconv reads up to {FORMAT_VERSION}; "
                    f"update pyconv (the file was written by {file.attrs['pyconv_version']})"
                )
            config = json.loads(file["config"].asstr()[()])
            file.visititems(collect)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"cannot read {path} as a pyconv model: {error}") from error
    return config, arrays


def _weights_by_name(model: Sequential) -> dict[str, Array]:
    return {
        f"weights/{layer_name}/{name}": array
        for layer_name, layer in zip(model.names, model.layers, strict=True)
        for name, array in layer.weights.items()
    }


def _stored(arrays: dict[str, Array], name: str, shape: Shape) -> Array:
    if name not in arrays:
        raise ValueError(f"the array {name} is missing")
    if arrays[name].shape != shape:
        raise ValueError(f"the array {name} has shape {arrays[name].shape}; expected {shape}")
    return arrays[name]


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON cannot hold")
