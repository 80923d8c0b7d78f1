"""NaN and infinity at every position of a window, in every channel of 1 to 40.

Each image of a batch, or each filter, has one of them at one place; every fourth has none. In four
turns every place sees every value, beside neighbours without one.
"""

import functools

import cases
import numpy as np
import pytest
import reference
from cases import Conv
from numpy.testing import assert_array_equal

import pyconv

VALUES = (np.nan, np.inf, -np.inf, None)
WINDOW = (3, 2)
PLACES = 6


def spoil(rows, turn):
    """Put a value at place n of row n."""
    for n, row in enumerate(rows):
        if (value := VALUES[(n + turn) % 4]) is not None:
            row[n % len(row)] = value


def nonzero(rng, shape):
    """Integers from -3 to 3 without 0, which times infinity would be NaN."""
    return rng.choice((-3.0, -2.0, -1.0, 1.0, 2.0, 3.0), shape)


def problem(spoiled, C, depthwise):
    """The convolution whose `spoiled` array has every place of a window in C channels as a row."""
    count = PLACES * C
    if depthwise:
        shapes = {"x": ((count, 3, 2, C), 2 * C), "w": ((1, 3, 2, C), count),
                  "dy": ((8 * C, 2, 1, C), 2 * C)}  # fmt: skip
    else:
        shapes = {"x": ((count, 3, 2, C), 5), "w": ((1, 3, 2, C), count), "dy": ((4 * C, 2, 1, 3), C)}
    x_shape, C_out = shapes[spoiled]
    return Conv("", x_shape, WINDOW, C_out, {"padding": 1, "groups": C if depthwise else 1})


@functools.cache
def solved(spoiled, C, depthwise, turn):
    """The case, its x, w, b, dy, and y, dx, dw, db by the reference."""
    case, rng = problem(spoiled, C, depthwise), np.random.default_rng(turn)
    (OH, _, _), (OW, _, _) = cases.conv_geometry(case)
    shapes = case.x_shape, case.w_shape, (case.C_out,), (case.x_shape[0], OH, OW, case.C_out)
    arrays = dict(zip(("x", "w", "b", "dy"), (nonzero(rng, shape) for shape in shapes), strict=True))
    array = arrays[spoiled]
    rows = array.reshape(-1, case.C_out).T if spoiled == "w" else array.reshape(len(array), -1)
    assert len(rows) % rows.shape[1] == 0  # each place has a row
    spoil(rows, turn)
    x, w, b, dy = arrays.values()
    with np.errstate(invalid="ignore"):
        results = (reference.conv2d(x, w, b, **case.options),
                   *reference.conv2d_backward(dy, x, w, **case.options))  # fmt: skip
    return case, tuple(arrays.values()), results


@pytest.mark.parametrize("depthwise", [False, True], ids=["plain", "depthwise"])
@pytest.mark.parametrize("spoiled", ["x", "w", "dy"])
def test_convolution(spoiled, depthwise, dtype, isa):
    for C in range(1, 41):
        for turn in range(4):
            case, arrays, expected = solved(spoiled, C, depthwise, turn)
            x, w, b, dy = (array.astype(dtype) for array in arrays)
            y = pyconv.conv2d(x, w, b, **case.options)
            gradients = pyconv.conv2d_backward(dy, x, w, **case.options)
            for name, ours, theirs in zip(
                ("y", "dx", "dw", "db"), (y, *gradients), expected, strict=True
            ):
                assert_array_equal(ours, theirs, err_msg=f"{name}, {C} channels, turn {turn}")


def test_pools(dtype, isa):
    """NumPy has the same rule: the first NaN, else the first maximum."""
    for C in range(1, 41):
        for turn in range(4):
            x = (6 * nonzero(np.random.default_rng(turn), (PLACES * C, *WINDOW, C))).astype(dtype)
            spoil(x.reshape(len(x), -1), turn)
            windows = x.reshape(len(x), PLACES, C)
            y, indices = pyconv.max_pool2d(x, WINDOW, return_indices=True)
            assert_array_equal(y[:, 0, 0], windows.max(1))
            assert_array_equal(indices[:, 0, 0], windows.argmax(1))
            assert_array_equal(pyconv.avg_pool2d(x, WINDOW)[:, 0, 0], windows.sum(1) / 6)


def test_gradients_of_pools(dtype, isa):
    for C in range(1, 41):
        for turn in range(4):
            rng = np.random.default_rng(turn)
            dy = (6 * nonzero(rng, (PLACES * C, 3, 2, C))).astype(dtype)
            spoil(dy.reshape(len(dy), -1), turn)
            indices = rng.permuted(np.arange(24).reshape(6, 4), axis=1)[:, 0]
            winners = np.broadcast_to(indices.astype(np.int32).reshape(1, 3, 2, 1), dy.shape)
            dx = pyconv.max_pool2d_backward(dy, winners, (len(dy), 4, 6, C)).reshape(len(dy), 24, C)
            assert_array_equal(dx[:, indices], dy.reshape(len(dy), 6, C))
            assert not np.delete(dx, indices, axis=1).any()
            dx = pyconv.avg_pool2d_backward(dy, (len(dy), 9, 4, C), (3, 2))
            assert_array_equal(dx, np.repeat(np.repeat(dy / 6, 3, axis=1), 2, axis=2))


def test_softmax_and_relu(dtype, isa):
    """A NaN stays, in its row alone; infinity is the whole of its row's sum, and NaN over itself."""
    for C in range(2, 41):
        for turn in range(4):
            x = nonzero(np.random.default_rng(turn), (C, C)).astype(dtype)
            spoil(x, turn)
            assert_array_equal(pyconv.relu(x), np.where(x < 0, 0, x))
            assert_array_equal(pyconv.relu_backward(x, -abs(x)), np.where(x == x, 0, x))
            rows = np.isnan(x).any(1) | (x == np.inf).any(1)
            assert_array_equal(np.isnan(pyconv.softmax(x)), np.repeat(rows[:, None], C, axis=1))
            assert (pyconv.softmax(x)[~rows][x[~rows] == -np.inf] == 0).all()
