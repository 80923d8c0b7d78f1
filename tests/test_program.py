"""The compiled step: what layers compute one by one, bit for bit, in memory that is shared and kept."""

import itertools

import numpy as np
import pytest
from networks import NETWORKS, network
from numpy.testing import assert_array_equal

import pyconv
from pyconv import _dispatch
from pyconv.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from pyconv.program import Arena, Program

SHAPE = (16, 16, 3)
DETERMINISTIC = [name for name in NETWORKS if not any(
    isinstance(layer, Dropout) for layer in NETWORKS[name]())]


def batch_of(model, rng, size=5):
    return rng.standard_normal((size, *model.input_shape)).astype(model.dtype)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_program_computes_what_its_layers_do(name, dtype, rng):
    model = network(name, dtype=dtype.name)
    model = pyconv.Sequential([type(layer)(**layer.get_config()) for layer in model.layers],
                              input_shape=model.input_shape, seed=1, dtype=dtype.name, fuse=False)
    x = batch_of(model, rng)
    y = x
    for layer in model.layers:
        y = layer.forward(y, training=False)
    assert_array_equal(model.forward(x), y)

    state = [{key: array.copy() for key, array in layer.state.items()} for layer in model.layers]
    y = x
    for layer in model.layers:
        y = layer.forward(y, training=True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    trainable = [i for i, layer in enumerate(model.layers) if layer.params]
    dx = dy
    for i in reversed(range(trainable[0], len(model.layers))):
        dx = model.layers[i].backward(dx, need_dx=i > trainable[0])
    gradients = model.gradients.copy()
    for layer, before in zip(model.layers, state, strict=True):
        for key, array in before.items():
            layer.state[key][...] = array
    model.gradients[...] = 0
    assert_array_equal(model.forward(x, training=True), y)
    model.backward(dy)
    assert_array_equal(model.gradients, gradients)
    assert np.any(gradients)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_that_are_needed_together_do_not_overlap(name, training):
    model = network(name)
    program, _ = model._programs.borrow((3, *model.input_shape), training)
    assert program._slots
    for (a, one), (b, other) in itertools.combinations(program._slots, 2):
        if one.meets(other):
            assert a + one.nbytes <= b or b + other.nbytes <= a
    assert program._size == max(start + slot.nbytes for start, slot in program._slots)
    if training:  # some memory serves twice
        assert program._size <= sum(slot.nbytes + 64 for _, slot in program._slots)


def test_steps_use_the_same_memory_again(rng):
    model = network("signs")
    model.compile()
    labels = rng.integers(0, 3, 9)
    model.train_on_batch(batch_of(model, rng, 9), labels)
    memory = model._programs._training.memory
    for size in (9, 4, 9):  # the last batch of an epoch is smaller
        model.train_on_batch(batch_of(model, rng, size), labels[:size])
        assert model._programs._training.memory is memory


def test_a_larger_batch_moves_the_programs(rng):
    layers = [Conv2D(4, 3), MaxPooling2D(2), Flatten(), Dense(3)]
    model = pyconv.Sequential(layers, input_shape=SHAPE, seed=0)
    small, large = batch_of(model, rng, 2), batch_of(model, rng, 20)
    before = model.forward(small, training=True)
    model.forward(large, training=True)
    assert_array_equal(model.forward(small, training=True), before)


@pytest.mark.parametrize("form", ["uint8", "float64", "strided", "read-only", "big-endian"])
def test_any_input_is_taken(form, rng):
    model = network("signs")
    plain = rng.integers(0, 255, (4, *model.input_shape)).astype(np.float32)
    x = {
        "uint8": plain.astype(np.uint8), "float64": plain.astype(np.float64),
        "strided": np.repeat(plain, 2, axis=2)[:, :, ::2], "read-only": plain.copy(),
        "big-endian": plain.astype(">f4"),
    }[form]
    x.flags.writeable = form != "read-only"
    before = x.copy()
    assert_array_equal(model.forward(x), model.forward(plain))
    assert_array_equal(x, before)


def test_an_output_is_the_callers_own(rng):
    model = network("signs")
    x = batch_of(model, rng)
    first = model.forward(x)
    kept = first.copy()
    model.forward(x + 1)
    assert_array_equal(first, kept)


def test_profile_names_the_operations_of_a_step(rng):
    model = network("signs")
    rows = model.profile(batch_of(model, rng), rounds=1)
    assert [row["operation"] for row in rows] == [
        "conv2d + max_pooling2d", "conv2d_1 + max_pooling2d_1", "dense"]
    assert all(row["forward"] > 0 and row["backward"] > 0 for row in rows)


def test_programs_of_old_batch_sizes_are_dropped(rng):
    model = network("dense")
    for size in range(1, 40):
        model.forward(batch_of(model, rng, size))
    assert len(model._programs._free) == 16


def test_an_operation_of_another_module_is_refused():
    program = Program(_dispatch.active.modules["f"], np.float32, False, Arena())
    with pytest.raises(TypeError, match="Operation"):
        program.module.run_forward([object()], 1)
