"""Model files and copies: training goes on bit for bit, and a bad file says what is wrong."""

import copy
import json
import pickle
import re

import h5py
import numpy as np
import pytest
from networks import NETWORKS, SHAPE, bright_corners, network, small
from numpy.testing import assert_array_equal

from pyconv.layers import Dense, Flatten, Residual
from pyconv.model import Sequential, load_model
from pyconv.optimizers import SGD, Adam, AdamW, RMSprop


@pytest.fixture
def data():
    return bright_corners()


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1), SGD(0.1, 0.9), Adam(0.01), AdamW(0.01), RMSprop(0.01, momentum=0.5)]
)
def test_training_goes_on_from_a_file_bit_for_bit(optimizer, data, tmp_path):
    straight = small(dropout=0.2, optimizer=copy.deepcopy(optimizer))
    stopped = small(dropout=0.2, optimizer=copy.deepcopy(optimizer))
    expected = straight.fit(*data, epochs=4, validation_data=data, verbose=0).history
    first = stopped.fit(*data, epochs=2, validation_data=data, verbose=0).history
    stopped.save(tmp_path / "model.h5")
    resumed = load_model(tmp_path / "model.h5")
    second = resumed.fit(
        *data, epochs=4, initial_epoch=2, validation_data=data, verbose=0
    ).history
    assert_array_equal(resumed.parameters, straight.parameters)
    assert {name: first[name] + second[name] for name in first} == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_file_holds_the_whole_model(name, dtype, tmp_path, rng):
    model = network(name, dtype)
    model.metadata = {"classes": ["a", "b", np.int64(3)], "sizes": np.arange(3), "scale": 1 / 3}
    model.save(tmp_path / "model.h5")
    loaded = load_model(str(tmp_path / "model.h5"))
    x = rng.random((3, 16, 16, 3))
    assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.metadata == {"classes": ["a", "b", 3], "sizes": [0, 1, 2], "scale": 1 / 3}
    assert (loaded.seed, loaded.dtype, loaded.input_shape) == (1, dtype, (16, 16, 3))
    assert [layer.get_config() for layer in loaded.layers] == [
        layer.get_config() for layer in model.layers
    ]
    assert not loaded.compiled


def test_moving_statistics_go_on_from_a_file_and_a_copy(tmp_path, rng):
    x, y = rng.random((20, 16, 16, 3)), rng.integers(0, 3, 20)
    model = network("residual")
    model.compile()
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.h5")
    others = load_model(tmp_path / "model.h5"), pickle.loads(pickle.dumps(model))
    for each in model, *others:
        each.fit(x, y, epochs=4, initial_epoch=2, verbose=0)
    for other in others:
        for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
            assert_array_equal(one, two)
            assert not np.shares_memory(one, two)
    with h5py.File(tmp_path / "model.h5") as file:
        weights = file["weights"]
        assert list(weights["batch_normalization"]) == [
            "beta", "gamma", "moving_mean", "moving_variance",
        ]  # fmt: skip
        assert "w" in weights["residual/body/conv2d_1"]


def test_a_strange_layer_inside_a_residual_block_is_not_saved(tmp_path):
    class Odd(Flatten):
        pass

    model = Sequential([Residual([Odd()], [Flatten()])], input_shape=(3, 3, 1))
    with pytest.raises(TypeError, match=r"Odd.* is no layer of pyconv"):
        model.save(tmp_path / "model.h5")


def test_copies_are_whole_models(data):
    model = small(dropout=0.3)
    model.fit(*data, verbose=0)
    for twin in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert not np.shares_memory(twin.parameters, model.parameters)
        original = copy.deepcopy(model)
        for each in original, twin:
            each.fit(*data, epochs=2, verbose=0)
        assert_array_equal(twin.parameters, original.parameters)


def test_copy_of_a_model_without_weights():
    twin = copy.deepcopy(Sequential([Flatten(), Dense(2)], seed=3))
    assert_array_equal(
        twin.predict(np.ones((1, 4))),
        Sequential([Flatten(), Dense(2)], seed=3).predict(np.ones((1, 4))),
    )


def test_failed_save_leaves_the_old_file(data, tmp_path):
    path = tmp_path / "model.h5"
    model = small()
    model.save(path)
    before = path.read_bytes()
    model.metadata["loss"] = open
    with pytest.raises(TypeError, match=r"model\.h5: .*metadata.*JSON cannot hold"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_interrupted_while_writing(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    model = small()
    model.save(path)
    before = path.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(h5py.File, "create_dataset", no_space)
    with pytest.raises(OSError, match="no space left"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_large_metadata(tmp_path):
    model = small()
    model.metadata["classes"] = [f"class number {i}" for i in range(10_000)]
    model.save(tmp_path / "model.h5")
    assert load_model(tmp_path / "model.h5").metadata == model.metadata


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file .*nothing\.h5"):
        load_model(tmp_path / "nothing.h5")
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        small().save(tmp_path / "nowhere" / "model.h5")


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.h5"
    small().save(path)
    return path


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.99])
def test_truncated_file(keep, model_file):
    content = model_file.read_bytes()
    model_file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"cannot read {re.escape(str(model_file))} as a pyconv"):
        load_model(model_file)


def test_foreign_file(model_file):
    with h5py.File(model_file, "w") as file:
        file["train_set_x"] = np.zeros(3)
    with pytest.raises(ValueError, match="no attribute format='pyconv model'"):
        load_model(model_file)


def test_newer_format(model_file):
    with h5py.File(model_file, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(ValueError, match=r"format version is 99.*update pyconv"):
        load_model(model_file)


def edited(change):
    """A damage: the configuration after `change(config)`."""

    def damage(file):
        config = json.loads(file["config"].asstr()[()])
        change(config)
        file["config"][()] = json.dumps(config)

    return damage


def reshaped(file):
    del file["weights/conv2d/w"]
    file["weights/conv2d/w"] = np.zeros((3, 3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.__delitem__("weights/dense/b"), "weights/dense/b is missing"),
        (reshaped, r"weights/conv2d/w has shape \(3, 3\); expected \(3, 3, 2, 4\)"),
        (lambda file: file.__delitem__("config"), "cannot read"),
        (lambda file: file["config"].__setitem__((), "{"), "cannot read"),
        (edited(lambda config: config.pop("dtype")), "damaged: 'dtype'"),
        (edited(lambda c: c["layers"][1].update({"class": "Conv3D"})), "did you mean 'Conv2D'"),
        (edited(lambda c: c["training"].update(loss="softmax")), "softmax_cross_entropy"),
    ],
)
def test_damaged_file(damage, message, model_file):
    with h5py.File(model_file, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=message):
        load_model(model_file)


def test_foreign_layers_cannot_be_saved(tmp_path):
    class Mine(Flatten):
        pass

    model = Sequential([Mine(), Dense(2)], input_shape=SHAPE)
    with pytest.raises(TypeError, match=r"Mine.*is no layer of pyconv"):
        model.save(tmp_path / "model.h5")
