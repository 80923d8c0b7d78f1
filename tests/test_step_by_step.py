"""The assignment's eight functions: against plain loops, at their edges, and their errors."""

import numpy as np
import oracle
import pytest

import pyconv
from pyconv import course
from pyconv.course import (
    conv_backward,
    conv_forward,
    conv_single_step,
    create_mask_from_window,
    distribute_value,
    pool_backward,
    pool_forward,
    zero_pad,
)

# m, n_H_prev, n_W_prev, n_C_prev, f, n_C, stride, pad
CONVOLUTIONS = [
    (2, 5, 5, 3, 3, 4, 1, 0),
    (2, 4, 7, 2, 2, 3, 2, 2),
    (1, 6, 5, 1, 4, 2, 3, 1),
    (3, 3, 3, 2, 1, 5, 2, 0),
    (1, 3, 3, 2, 5, 1, 1, 1),
    (0, 5, 5, 3, 3, 4, 1, 1),
]
# m, n_H_prev, n_W_prev, n_C, f, stride
POOLS = [
    (2, 4, 4, 3, 2, 2),
    (2, 5, 7, 2, 3, 1),
    (1, 7, 5, 1, 2, 3),
    (3, 3, 3, 2, 1, 1),
    (1, 4, 6, 2, 4, 2),
    (0, 4, 4, 3, 2, 2),
]


def whole(rng, *shape):
    """Small whole numbers, whose sums are exact and whose maxima are often tied."""
    return rng.integers(-3, 4, shape).astype(float)


def locked(array):
    array.setflags(write=False)
    return array


def convolution(rng, m, n_H_prev, n_W_prev, n_C_prev, f, n_C, stride, pad):
    return (
        locked(whole(rng, m, n_H_prev, n_W_prev, n_C_prev)),
        locked(whole(rng, f, f, n_C_prev, n_C)),
        locked(whole(rng, 1, 1, 1, n_C)),
        {"stride": stride, "pad": pad},
    )


def assignment_pool_backward(dA, A_prev, f, stride, mode):
    """The assignment's loops."""
    dA_prev = np.zeros(A_prev.shape)
    for i, h, w, c in np.ndindex(dA.shape):
        window = np.s_[i, h * stride : h * stride + f, w * stride : w * stride + f, c]
        if mode == "max":
            dA_prev[window] += create_mask_from_window(A_prev[window]) * dA[i, h, w, c]
        else:
            dA_prev[window] += distribute_value(dA[i, h, w, c], (f, f))
    return dA_prev


def test_the_eight_functions_are_names_of_pyconv():
    for name in (
        "zero_pad conv_single_step conv_forward conv_backward pool_forward "
        "create_mask_from_window distribute_value pool_backward"
    ).split():
        assert getattr(pyconv, name) is getattr(course, name)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv_forward_is_the_loops(case, rng):
    A_prev, W, b, hparameters = convolution(rng, *case)
    Z, cache = conv_forward(A_prev, W, b, hparameters)
    expected = oracle.conv2d(
        A_prev, W, b.ravel(), stride=hparameters["stride"], padding=hparameters["pad"]
    )
    np.testing.assert_array_equal(Z, expected)
    assert Z.dtype == np.float64
    for kept, passed in zip(cache, (A_prev, W, b, hparameters), strict=True):
        assert kept is passed


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv_backward_is_the_loops(case, rng):
    A_prev, W, b, hparameters = convolution(rng, *case)
    Z, cache = conv_forward(A_prev, W, b, hparameters)
    dZ = locked(whole(rng, *Z.shape))
    dA_prev, dW, db = conv_backward(dZ, cache)
    dx, dw, expected_db = oracle.conv2d_backward(
        dZ, A_prev, W, stride=hparameters["stride"], padding=hparameters["pad"]
    )
    np.testing.assert_array_equal(dA_prev, dx)
    np.testing.assert_array_equal(dW, dw)
    np.testing.assert_array_equal(db, expected_db.reshape(1, 1, 1, -1))
    assert {g.dtype for g in (dA_prev, dW, db)} == {np.dtype(np.float64)}


def test_conv_forward_is_made_of_zero_pad_and_single_steps(rng):
    A_prev, W, b, hparameters = convolution(rng, 2, 5, 4, 3, 3, 4, 2, 1)
    Z, _ = conv_forward(A_prev, W, b, hparameters)
    padded = zero_pad(A_prev, 1)
    for i, h, w, c in np.ndindex(Z.shape):
        window = padded[i, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
        assert conv_single_step(window, W[..., c], b[..., c]) == Z[i, h, w, c]


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("case", POOLS)
def test_pool_forward_is_the_loops(case, mode, rng):
    *shape, f, stride = case
    A_prev, hparameters = locked(whole(rng, *shape)), {"f": f, "stride": stride}
    A, cache = pool_forward(A_prev, hparameters, mode=mode)
    if mode == "max":
        np.testing.assert_array_equal(A, oracle.max_pool2d(A_prev, f, stride=stride)[0])
    else:
        np.testing.assert_allclose(A, oracle.avg_pool2d(A_prev, f, stride=stride), rtol=1e-14)
    assert A.dtype == np.float64
    assert cache[0] is A_prev and cache[1] is hparameters and len(cache) == 2


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("case", POOLS)
def test_pool_backward_is_the_loops(case, mode, rng):
    *shape, f, stride = case
    A_prev = locked(whole(rng, *shape))
    A, cache = pool_forward(A_prev, {"f": f, "stride": stride}, mode=mode)
    dA = locked(whole(rng, *A.shape))
    dA_prev = pool_backward(dA, cache, mode=mode)
    expected = assignment_pool_backward(dA, A_prev, f, stride, mode)
    np.testing.assert_allclose(dA_prev, expected, rtol=0, atol=0 if mode == "max" else 1e-14)
    assert dA_prev.dtype == np.float64


def test_every_tied_maximum_gets_the_gradient():
    A, cache = pool_forward(np.zeros((1, 2, 2, 1)), {"f": 2, "stride": 2})
    dA_prev = pool_backward(np.full_like(A, 5.0), cache)
    np.testing.assert_array_equal(dA_prev, np.full((1, 2, 2, 1), 5.0))


def test_create_mask_marks_every_maximum():
    mask = create_mask_from_window(np.array([[2.0, -1.0], [2.0, 0.0]]))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, [[True, False], [True, False]])


def test_distribute_value_keeps_the_sum():
    shared = distribute_value(np.float64(3), (2, 3))
    assert shared.dtype == np.float64
    np.testing.assert_array_equal(shared, np.full((2, 3), 0.5))


@pytest.mark.parametrize("b", [2, 2.0, np.float32(2), [2], np.full((1, 1, 1), 2)])
def test_the_bias_of_a_single_step_may_be_an_array_of_one_element(b):
    a, W = np.ones((2, 2, 3)), np.full((2, 2, 3), 0.5)
    Z = conv_single_step(a, W, b)
    assert Z == 8.0 and np.shape(Z) == ()


def test_whole_numbers_are_computed_in_float64(rng):
    A_prev = rng.integers(0, 256, (1, 4, 4, 2), dtype=np.uint8)
    W, b = rng.integers(-3, 4, (2, 2, 2, 3)), np.ones((1, 1, 1, 3), dtype=int)
    Z, cache = conv_forward(A_prev, W, b, {"stride": np.int64(2), "pad": 0})
    as_floats = conv_forward(
        A_prev.astype(float), W.astype(float), b.astype(float), {"stride": 2, "pad": 0}
    )[0]
    np.testing.assert_array_equal(Z, as_floats)
    A, pool_cache = pool_forward(A_prev, {"f": 2, "stride": 2}, mode="average")
    results = (
        *conv_backward(np.ones(Z.shape, int), cache),
        *(Z, A, zero_pad(A_prev, 1), distribute_value(1, (2, 2))),
        *(pool_backward(np.ones(A.shape, int), pool_cache, mode) for mode in ("max", "average")),
    )
    assert {result.dtype for result in results} == {np.dtype(np.float64)}


def test_pad_zero_returns_a_copy(rng):
    X = whole(rng, 1, 3, 3, 1)
    X_pad = zero_pad(X, 0)
    np.testing.assert_array_equal(X_pad, X)
    assert not np.shares_memory(X_pad, X)


IMAGE, FILTER, BIAS = np.ones((2, 5, 5, 3)), np.ones((3, 3, 3, 4)), np.ones((1, 1, 1, 4))
STEP = {"stride": 1, "pad": 0}
CONV_CACHE = (IMAGE, FILTER, BIAS, STEP)
POOL_CACHE = (IMAGE, {"f": 2, "stride": 1})


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (zero_pad, (IMAGE, -1), "`pad` is -1; expected 0 to"),
        (zero_pad, (IMAGE[0], 1), r"`X` has shape \(5, 5, 3\); it must be \(m, n_H"),
        (conv_single_step, (IMAGE[0], FILTER[..., 0], 0), r"`a_slice_prev` .*\(5, 5, 3\).*`W`"),
        (conv_single_step, (FILTER[..., 0], FILTER[..., 0], [1, 2]), r"`b` has shape \(2,\)"),
        (conv_forward, (IMAGE[0], FILTER, BIAS, STEP), "`A_prev` has shape .*must be"),
        (conv_forward, (IMAGE, FILTER[0], BIAS, STEP), "`W` has shape .*must be"),
        (conv_forward, (IMAGE, FILTER[:2], BIAS, STEP), "`W` has filters of 2 x 3"),
        (
            conv_forward,
            (IMAGE[..., :2], FILTER, BIAS, STEP),
            "`A_prev` has 2 channels.*`W` expects 3",
        ),
        (conv_forward, (IMAGE, FILTER, BIAS.ravel(), STEP), r"`b` has shape \(4,\).*reshape"),
        (
            conv_forward,
            (IMAGE, FILTER, BIAS, {"pad": 1}),
            "`hparameters` is .*must have the key 'stride'",
        ),
        (
            conv_forward,
            (IMAGE, FILTER, BIAS, {"stride": 1}),
            "`hparameters` is .*must have the key 'pad'",
        ),
        (
            conv_forward,
            (IMAGE, FILTER, BIAS, {"stride": 0, "pad": 0}),
            r"`hparameters\['stride'\]` is 0",
        ),
        (
            conv_forward,
            (IMAGE, FILTER, BIAS, {"stride": 1, "pad": -1}),
            r"`hparameters\['pad'\]` is -1",
        ),
        (conv_forward, (IMAGE[:, :2], FILTER, BIAS, STEP), "3 x 3 exceeds `A_prev`.*pad=0"),
        (conv_backward, (np.ones((2, 3, 3, 3)), CONV_CACHE), r"`dZ` .*expected \(2, 3, 3, 4\)"),
        (
            conv_backward,
            (np.ones((2, 3, 3, 4)), POOL_CACHE),
            "`cache` is a tuple of 2; pass the tuple of 4",
        ),
        (pool_forward, (IMAGE, {"f": 2, "stride": 1}, "mean"), "`mode` is 'mean'.*'average'"),
        (pool_forward, (IMAGE, {"stride": 1}), "`hparameters` is .*must have the key 'f'"),
        (pool_forward, (IMAGE, {"f": 6, "stride": 1}), "6 x 6 exceeds `A_prev`"),
        (pool_backward, (np.ones((2, 4, 4, 3)), POOL_CACHE, "avg"), "`mode` is 'avg'.*'max'"),
        (pool_backward, (np.ones((2, 3, 4, 3)), POOL_CACHE), r"`dA` .*expected \(2, 4, 4, 3\)"),
        (
            pool_backward,
            (np.ones((2, 4, 4, 3)), CONV_CACHE),
            "`cache` is a tuple of 4; pass the tuple of 2",
        ),
        (create_mask_from_window, (np.ones((0, 2)),), r"`x` has shape \(0, 2\)"),
        (distribute_value, (1, (0, 2)), "`shape` is 0"),
        (distribute_value, (1, (2, 2, 2)), r"`shape` is \(2, 2, 2\)"),
        (distribute_value, ([1, 2], (2, 2)), "`dz` has shape"),
    ],
)
def test_errors_say_what_is_wrong(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (zero_pad, (IMAGE, 1.5), r"`pad` is 1.5 \(float\); expected an integer"),
        (zero_pad, (IMAGE * 1j, 1), "`X` has dtype complex128; it must hold real numbers"),
        (pool_forward, (IMAGE, {"f": "2", "stride": 1}), r"`hparameters\['f'\]` is '2'"),
    ],
)
def test_wrong_types_are_type_errors(function, arguments, message):
    with pytest.raises(TypeError, match=message):
        function(*arguments)
