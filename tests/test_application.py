"""The assignment's SIGNS network: its random numbers, minibatches, cost, training and data."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyconv import course
from pyconv.course import (
    AssignmentCost,
    assignment_weights,
    compute_cost,
    convert_to_one_hot,
    create_placeholders,
    forward_propagation,
    initialize_parameters,
    load_dataset,
    minibatch_order,
    philox,
    predict,
    random_mini_batches,
)


def images(rng, m, size=16):
    """Small images, whose training takes no time, and their labels as one-hot rows."""
    return rng.random((m, size, size, 3)), convert_to_one_hot(rng.integers(0, 6, m), 6).T


# ------------------------------------------------------------------------------ random numbers


def test_philox_gives_the_authors_test_vector():
    """Random123, kat_vectors: philox4x32, 10 rounds, counter and key 0."""
    words = philox.philox_words(1, graph_seed=0, op_seed=0)
    np.testing.assert_array_equal(words, [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]])


def test_the_first_numbers_do_not_depend_on_how_many_are_drawn():
    long = philox.random_uniform((11,), graph_seed=1, op_seed=2)
    for size in range(11):
        short = philox.random_uniform((size,), graph_seed=1, op_seed=2)
        np.testing.assert_array_equal(short, long[:size])
    assert not np.array_equal(long, philox.random_uniform((11,), graph_seed=1, op_seed=3))
    assert not np.array_equal(long, philox.random_uniform((11,), graph_seed=2, op_seed=2))


def test_uniform_numbers_fill_the_interval():
    u = philox.random_uniform((100, 100), graph_seed=1, op_seed=0)
    assert u.dtype == np.float32 and 0 <= u.min() < 0.001 and 0.999 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01  # three standard deviations of the mean are 0.0087


def test_glorot_uniform_reaches_its_limit_and_no_further():
    w = philox.glorot_uniform((3, 3, 50, 60), op_seed=7)
    limit = np.sqrt(6 / (9 * 50 + 9 * 60))
    assert w.dtype == np.float32 and 0.999 * limit < np.abs(w).max() <= np.float32(limit)


# ------------------------------------------------------------------------- labels, minibatches


def test_one_hot_has_a_column_for_every_label(rng):
    Y = rng.integers(0, 6, (1, 20))
    one_hot = convert_to_one_hot(Y, 6)
    assert one_hot.shape == (6, 20)
    np.testing.assert_array_equal(one_hot.sum(axis=0), np.ones(20))
    np.testing.assert_array_equal(one_hot.argmax(axis=0), Y[0])


@pytest.mark.parametrize("label", [-1, 6])
def test_labels_outside_the_classes_are_errors(label):
    with pytest.raises(ValueError, match=f"`Y` holds the label {label}.*C=6.*0 to 5"):
        convert_to_one_hot([[0, label]], 6)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="`Y` has dtype float64; labels must be integers"):
        convert_to_one_hot([0.5], 6)


@pytest.mark.parametrize(("m", "size"), [(10, 4), (8, 4), (3, 4), (0, 4)])
def test_minibatches_are_the_assignments(m, size, rng):
    X, Y = images(rng, m, size=2)
    state = np.random.get_state()[1].copy()
    batches = random_mini_batches(X, Y, mini_batch_size=size, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)

    np.random.seed(5)  # from here on the assignment's own code
    permutation = list(np.random.permutation(m))
    shuffled_X, shuffled_Y = X[permutation, :, :, :], Y[permutation, :]
    assert len(batches) == -(-m // size)
    for k, (batch_X, batch_Y) in enumerate(batches):
        np.testing.assert_array_equal(batch_X, shuffled_X[k * size : k * size + size])
        np.testing.assert_array_equal(batch_Y, shuffled_Y[k * size : k * size + size])


def test_the_order_of_an_epoch_is_that_of_its_minibatches(rng):
    X, Y = np.arange(10), np.zeros((10, 6))
    batches = random_mini_batches(X, Y, 4, seed=3 + 1 + 7)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), minibatch_order(7, 10))


def test_minibatches_check_their_arguments():
    with pytest.raises(ValueError, match=r"`X` has shape \(3, 2\) and `Y` \(2, 3\).*\.T"):
        random_mini_batches(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="`mini_batch_size` is 0"):
        random_mini_batches(np.ones((3, 2)), np.ones((3, 2)), 0)


# ----------------------------------------------------------------------------------- the network


def test_placeholders_know_and_check_shapes():
    X, Y = create_placeholders(64, 64, 3, 6)
    assert (X.shape, Y.shape) == ((None, 64, 64, 3), (None, 6))
    assert X.dtype == Y.dtype == np.float32
    assert str(Y) == "Placeholder(shape=(?, 6), dtype=float32)"
    assert Y.feed([[1, 0, 0, 0, 0, 0]], "Y").dtype == np.float32
    with pytest.raises(ValueError, match=r"`Y` has shape \(6, 2\), expected \(\?, 6\)"):
        Y.feed(np.ones((6, 2)), "Y")


def test_initial_weights_are_float32_and_fresh_each_time():
    parameters = initialize_parameters()
    assert {name: (w.shape, w.dtype.name) for name, w in parameters.items()} == {
        "W1": ((4, 4, 3, 8), "float32"),
        "W2": ((2, 2, 8, 16), "float32"),
    }
    parameters["W1"][:] = 0
    assert initialize_parameters()["W1"].any()


def test_forward_propagation_adds_tensorflows_own_layer():
    parameters = initialize_parameters()
    Z3 = forward_propagation(np.zeros((2, 64, 64, 3)), parameters)
    assert Z3.dtype == np.float32
    np.testing.assert_array_equal(Z3, np.zeros((2, 6)))  # no biases but zeros
    assert list(parameters) == ["W1", "W2", "W3", "b3"]
    np.testing.assert_array_equal(
        parameters["W3"], philox.glorot_uniform((64, 6), op_seed=course.application.DENSE_SEED)
    )
    for ours, added in zip(assignment_weights(), parameters.values(), strict=True):
        np.testing.assert_array_equal(ours, added)


def test_forward_propagation_uses_the_parameters_it_gets(rng):
    X, _ = images(rng, 3)
    parameters = initialize_parameters()
    Z3 = forward_propagation(X, parameters)
    np.testing.assert_allclose(
        forward_propagation(X, parameters | {"b3": np.arange(6, dtype=np.float32)}),
        Z3 + np.arange(6),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(predict(X, parameters), Z3.argmax(axis=1))


def test_forward_propagation_checks_images_and_parameters(rng):
    X, _ = images(rng, 2)
    with pytest.raises(
        ValueError, match=r"`X` has shape \(16, 16, 3\), expected \(\?, \?, \?, 3\)"
    ):
        forward_propagation(X[0], initialize_parameters())
    with pytest.raises(ValueError, match=r"`parameters` lacks W2.*initialize_parameters"):
        forward_propagation(X, parameters := {"W1": initialize_parameters()["W1"]})
    assert list(parameters) == ["W1"]  # checked before anything is added


def test_cost_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    Y = convert_to_one_hot([0, 5, 2], 6).T
    assert compute_cost(np.full((3, 6), 7, np.float32), Y) == pytest.approx(np.log(6), rel=1e-12)


def test_cost_does_not_overflow():
    assert compute_cost([[1000.0, 0.0]], [[0.0, 1.0]]) == 1000.0


def test_cost_checks_shapes():
    with pytest.raises(ValueError, match=r"`Z3` has shape \(2, 6\) and `Y` \(6, 2\)"):
        compute_cost(np.zeros((2, 6)), np.zeros((6, 2)))
    with pytest.raises(ValueError, match="at least one example"):
        compute_cost(np.zeros((0, 6)), np.zeros((0, 6)))


# --------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(("m", "divisor"), [(10, 2), (8, 2), (3, 1)])
def test_the_cost_of_an_epoch_is_divided_by_the_number_of_whole_minibatches(m, divisor, capsys):
    cost = AssignmentCost(4, m)
    for epoch in range(6):
        cost.on_epoch_begin(epoch, {})
        for batch, loss in enumerate([1.5, 2.5, epoch]):
            cost.on_batch_end(batch, {"loss": loss})
        cost.on_epoch_end(epoch, {})
    assert cost.costs == [(4 + epoch) / divisor for epoch in range(6)]
    assert capsys.readouterr().out == (
        f"Cost after epoch 0: {4 / divisor:f}\nCost after epoch 5: {9 / divisor:f}\n"
    )


def test_model_prints_what_the_assignment_prints(rng, capsys):
    X, Y = images(rng, 10)
    X_test, Y_test = images(rng, 5)
    train_accuracy, test_accuracy, parameters = course.model(
        X, Y, X_test, Y_test, learning_rate=1e-30, num_epochs=6, minibatch_size=4
    )
    # With this learning rate the weights stay as they were, so each epoch's cost is known.
    start = initialize_parameters()
    first, sixth = (
        sum(
            compute_cost(forward_propagation(x, start), y)
            for x, y in random_mini_batches(X, Y, 4, seed)
        )
        / 2
        for seed in (4, 9)
    )
    assert abs(first - sixth) > 1e-4  # or the order of the minibatches would not be tested
    printed = [line.rsplit(": ") for line in capsys.readouterr().out.splitlines()]
    assert [text for text, _ in printed] == [
        "Cost after epoch 0",
        "Cost after epoch 5",
        "Train Accuracy",
        "Test Accuracy",
    ]
    assert all(re.fullmatch(r"\d\.\d{6}", number) for _, number in printed)
    np.testing.assert_allclose(
        [float(number) for _, number in printed],
        [first, sixth, train_accuracy, test_accuracy],
        atol=2e-6,
    )
    assert list(parameters) == ["W1", "W2", "W3", "b3"]
    assert train_accuracy == np.mean(predict(X, parameters) == Y.argmax(axis=1))
    assert test_accuracy == np.mean(predict(X_test, parameters) == Y_test.argmax(axis=1))


def test_model_learns_the_same_each_time_and_leaves_its_arguments_alone(rng, capsys):
    X, Y = images(rng, 12)
    X.setflags(write=False)
    Y.setflags(write=False)
    runs = [
        course.model(X, Y, X, Y, num_epochs=40, minibatch_size=64, print_cost=False)
        for _ in range(2)
    ]
    assert "Cost" not in capsys.readouterr().out
    assert runs[0][0] > 0.9  # of twelve examples, learned by heart
    assert runs[0][:2] == runs[1][:2]
    for name, w in runs[0][2].items():
        np.testing.assert_array_equal(w, runs[1][2][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_train": np.ones((4, 16, 16, 1))}, r"`X_train` has shape \(4, 16, 16, 1\)"),
        ({"X_test": np.ones((4, 16, 8, 3))}, r"`X_test` .*expected \(\?, 16, 16, 3\)"),
        ({"Y_train": np.ones((6, 4))}, r"`Y_train` has shape \(6, 4\), expected \(\?, 6\)"),
        ({"Y_train": np.ones((5, 6))}, r"`X_train` has shape .* and `Y_train` \(5, 6\)"),
        ({"Y_test": np.ones((5, 6))}, r"`X_test` has shape .* and `Y_test` \(5, 6\)"),
        ({"X_test": np.ones((0, 16, 16, 3)), "Y_test": np.ones((0, 6))}, "`X_test` .* one image"),
        ({"minibatch_size": 0}, "`minibatch_size` is 0"),
        ({"num_epochs": -1}, "`num_epochs` is -1"),
    ],
)
def test_model_checks_its_arguments(change, message):
    X, Y = np.ones((4, 16, 16, 3)), np.eye(6)[:4]
    arguments = {"X_train": X, "Y_train": Y, "X_test": X, "Y_test": Y} | change
    with pytest.raises(ValueError, match=message):
        course.model(**arguments)


@pytest.fixture
def signs_folder():
    if "PYCONV_DATA" not in os.environ:
        pytest.skip("PYCONV_DATA is not set: the assignment's SIGNS files are not here")
    return Path(os.environ["PYCONV_DATA"]) / "signs"


def test_the_signs_data_give_the_measured_costs(signs_folder, capsys):
    X_train, Y_train, X_test, Y_test, classes = load_dataset(signs_folder)
    course.model(
        X_train / 255.0,
        convert_to_one_hot(Y_train, len(classes)).T,
        X_test / 255.0,
        convert_to_one_hot(Y_test, len(classes)).T,
        num_epochs=6,
    )
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert float(printed["Cost after epoch 0"]) == pytest.approx(1.9132, abs=0.002)
    assert float(printed["Cost after epoch 5"]) == pytest.approx(1.3388, abs=0.2)


# ------------------------------------------------------------------------------------------- data


def test_load_dataset_reads_the_assignments_files(signs_folder):
    by_default, by_name = load_dataset(), load_dataset(signs_folder)
    for one, other in zip(by_default, by_name, strict=True):
        np.testing.assert_array_equal(one, other)
    X_train, Y_train, X_test, Y_test, classes = by_name
    assert (X_train.shape, X_train.dtype) == ((1080, 64, 64, 3), np.uint8)
    assert (X_test.shape, X_test.dtype) == ((120, 64, 64, 3), np.uint8)
    assert (Y_train.shape, Y_test.shape) == ((1, 1080), (1, 120))
    np.testing.assert_array_equal(classes, range(6))
    np.testing.assert_array_equal(np.bincount(Y_train[0]), [180] * 6)


def write_signs(folder, size=64):
    for part in ("train", "test"):
        with h5py.File(folder / f"{part}_signs.h5", "w") as file:
            file[f"{part}_set_x"] = np.zeros((3, size, size, 3), np.uint8)
            file[f"{part}_set_y"] = np.arange(3)
            file["list_classes"] = np.arange(6)


def test_load_dataset_takes_the_folder_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "signs").mkdir()
    write_signs(tmp_path / "signs")
    monkeypatch.setenv("PYCONV_DATA", str(tmp_path))
    np.testing.assert_array_equal(load_dataset()[1], [[0, 1, 2]])


def test_load_dataset_names_the_missing_file(tmp_path):
    write_signs(tmp_path)
    (tmp_path / "test_signs.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_signs\.h5"):
        load_dataset(tmp_path)


def test_load_dataset_names_the_truncated_file(tmp_path):
    write_signs(tmp_path)
    path = tmp_path / "test_signs.h5"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises((ValueError, OSError), match=r"test_signs\.h5"):
        load_dataset(tmp_path)


def test_load_dataset_names_the_data_set_of_a_wrong_shape(tmp_path):
    write_signs(tmp_path, size=32)
    with pytest.raises(ValueError, match=r"train_signs\.h5.*train_set_x.*\(3, 32, 32, 3\)"):
        load_dataset(tmp_path)


def test_load_dataset_falls_back_on_the_drawn_hands(monkeypatch):
    monkeypatch.delenv("PYCONV_DATA", raising=False)
    X_train, Y_train, X_test, Y_test, classes = load_dataset()
    assert (X_train.shape, X_train.dtype) == ((1080, 64, 64, 3), np.uint8)
    assert (X_test.shape, X_test.dtype) == ((120, 64, 64, 3), np.uint8)
    assert (Y_train.shape, Y_test.shape, len(classes)) == ((1, 1080), (1, 120), 6)
