"""The oracle itself, against examples worked out by hand; and the fast reference, against it."""

import cases
import numpy as np
import oracle
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal


def image(rows):
    """One image of one channel."""
    return np.array(rows, float)[None, :, :, None]


def filters(rows):
    """One filter of one channel."""
    return np.array(rows, float)[:, :, None, None]


def test_conv2d_detects_a_vertical_edge():
    x = image([[10, 10, 0, 0]] * 3)
    w = filters([[1, 0, -1]] * 3)
    assert_array_equal(oracle.conv2d(x, w), image([[30, 30]]))


def test_conv2d_does_not_flip_the_filter():
    w = filters([[1, 2], [3, 4]])
    y = oracle.conv2d(image([[0, 0, 0], [0, 1, 0], [0, 0, 0]]), w)
    assert_array_equal(y, image([[4, 3], [2, 1]]))


def test_conv2d_adds_bias_sums_channels_and_applies_relu():
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    w = np.array([[1.0, -1.0], [1.0, 0.0], [1.0, 0.0]]).reshape(1, 1, 3, 2)
    b = np.array([10.0, -5.0])
    assert_array_equal(oracle.conv2d(x, w, b).ravel(), [16, -6])
    assert_array_equal(oracle.conv2d(x, w, b, activation="relu").ravel(), [16, 0])


def test_conv2d_groups_keep_channels_apart():
    x = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 1, 4)
    w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)  # w[0, 0, i, o]
    assert_array_equal(oracle.conv2d(x, w, groups=2).ravel(), [1 + 30, 200 + 4000])


def test_conv2d_dilation_and_stride():
    x = image([[1, 2, 3, 4, 5, 6, 7]])
    w = filters([[1, 10]])
    assert_array_equal(oracle.conv2d(x, w, dilation=(1, 3)), image([[41, 52, 63, 74]]))
    assert_array_equal(oracle.conv2d(x, w, dilation=(1, 3), stride=(1, 2)), image([[41, 63]]))


def test_conv2d_padding_is_zero_and_may_be_uneven():
    x, w = image([[1, 2]]), filters([[1, 10, 100]])
    padded = oracle.conv2d(x, w, padding=((0, 0), (3, 1)))
    assert_array_equal(padded, image([[0, 100, 210, 21]]))


def test_conv2d_backward():
    x, w, dy = image([[1, 2, 3]]), filters([[10, 20]]), image([[5, 7]])
    dx, dw, db = oracle.conv2d_backward(dy, x, w)
    assert_array_equal(dx, image([[50, 100 + 70, 140]]))
    assert_array_equal(dw, filters([[5 + 14, 10 + 21]]))
    assert_array_equal(db, [12])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "padding", "expected"),
    [
        (5, 3, 1, 1, "valid", (3, 0, 0)),
        (5, 3, 1, 1, "same", (5, 1, 1)),
        (6, 3, 2, 1, "same", (3, 0, 1)),
        (6, 3, 2, 1, "same_lower", (3, 1, 0)),
        (64, 4, 1, 1, "same", (64, 1, 2)),
        (64, 8, 8, 1, "same", (8, 0, 0)),
        (8, 3, 2, 3, "same", (4, 2, 3)),
        (7, 2, 4, 1, "same", (2, 0, 0)),
        (5, 2, 1, 1, (3, 4), (11, 3, 4)),
    ],
)
def test_axis_geometry(size, kernel, stride, dilation, padding, expected):
    assert oracle.axis_geometry(size, kernel, stride, dilation, padding) == expected


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        (5, 2, 2, (0, 0), 3),  # the last window holds one pixel
        (6, 2, 2, (0, 0), 3),
        (3, 2, 2, (1, 1), 2),  # a third would start behind the image
        (7, 2, 3, (0, 0), 3),
    ],
)
def test_axis_geometry_in_ceil_mode(size, kernel, stride, padding, expected):
    assert oracle.axis_geometry(size, kernel, stride, 1, padding, True)[0] == expected


def test_max_pool2d_first_maximum_and_first_nan_win():
    x = image([[1, 7, 7, 3], [7, 0, np.nan, np.nan]])
    y, indices = oracle.max_pool2d(x, 2)
    assert_array_equal(y, image([[7, np.nan]]))
    assert_array_equal(indices.ravel(), [1, 6])


def test_max_pool2d_padding_never_wins():
    y, indices = oracle.max_pool2d(image([[-3, -2]]), (1, 2), stride=1, padding=(0, 1))
    assert_array_equal(y, image([[-3, -2, -2]]))
    assert_array_equal(indices.ravel(), [0, 1, 1])


def test_max_pool2d_backward_adds_where_windows_overlap():
    dy = image([[5, 7]])
    dx = oracle.max_pool2d_backward(dy, np.array([1, 1]).reshape(dy.shape), (1, 1, 3, 1))
    assert_array_equal(dx, image([[0, 12, 0]]))


def test_avg_pool2d_divisors():
    x = image([[6, 12, 24]])
    options = {"stride": (1, 2), "padding": ((0, 0), (1, 0)), "ceil_mode": True}
    # Windows of two from column -1: (pad, 6) and (12, 24).
    assert_array_equal(oracle.avg_pool2d(x, (1, 2), **options), image([[6, 18]]))
    included = oracle.avg_pool2d(x, (1, 2), count_include_pad=True, **options)
    assert_array_equal(included, image([[3, 18]]))
    # Windows of two from column 0: (6, 12) and (24, overhang), which never counts.
    options["padding"] = 0
    overhang = oracle.avg_pool2d(x, (1, 2), count_include_pad=True, **options)
    assert_array_equal(overhang, image([[9, 24]]))


def test_avg_pool2d_backward():
    options = {"stride": (1, 2), "padding": ((0, 0), (1, 0))}
    dy = image([[6, 10]])
    dx = oracle.avg_pool2d_backward(dy, (1, 1, 3, 1), (1, 2), **options)
    assert_array_equal(dx, image([[6, 5, 5]]))
    dx = oracle.avg_pool2d_backward(dy, (1, 1, 3, 1), (1, 2), count_include_pad=True, **options)
    assert_array_equal(dx, image([[3, 5, 5]]))


def test_dense_and_its_gradients():
    x, w = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -6.0]])
    y = oracle.dense(x, w, np.array([100.0, 200.0, 0.0]), activation="relu")
    assert_array_equal(y, [[109, 212, 0]])
    dx, dw, db = oracle.dense_backward(np.array([[1.0, 10.0, 0.0]]), x, w)
    assert_array_equal(dx, [[21, 54]])
    assert_array_equal(dw, [[1, 10, 0], [2, 20, 0]])
    assert_array_equal(db, [1, 10, 0])


def test_softmax_cross_entropy_of_known_odds():
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]])
    assert_allclose(oracle.softmax(logits), [[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 1 / 2]])
    loss, dlogits = oracle.softmax_cross_entropy(logits, np.array([1, 0]))
    assert loss == pytest.approx((np.log(4) + np.log(4)) / 2)
    assert_allclose(dlogits, [[1 / 16, -6 / 16, 5 / 16], [-3 / 8, 1 / 8, 2 / 8]])


def test_adam_moves_by_the_learning_rate_at_first():
    param, grad = np.array([1.0, 1.0]), np.array([0.5, -200.0])
    param, m, v = oracle.adam_step(
        param, grad, np.zeros(2), np.zeros(2), step=1, learning_rate=0.1, epsilon=0.0
    )
    assert_allclose(param, [0.9, 1.1])
    assert_allclose(m, [0.05, -20.0])
    assert_allclose(v, [0.00025, 40.0])


def test_sgd_with_momentum():
    param, velocity, grad = np.array([10.0]), np.array([2.0]), np.array([4.0])
    plain = oracle.sgd_step(param, grad, velocity, learning_rate=0.5, momentum=0.5)
    assert_array_equal(plain, [[9.0], [-1.0]])
    nesterov = oracle.sgd_step(
        param, grad, velocity, learning_rate=0.5, momentum=0.5, nesterov=True
    )
    assert_array_equal(nesterov, [[7.5], [-1.0]])


@pytest.mark.parametrize("special", [0.0, np.nan, np.inf], ids=["integers", "nan", "inf"])
@pytest.mark.parametrize("case", cases.CONVOLUTIONS + cases.random_geometries(20, 1), ids=str)
def test_reference_equals_oracle(case, special, rng):
    x, w, b, dy = cases.arrays(case, np.float64)
    for array in (x, w, dy):
        array.ravel()[rng.integers(array.size)] = special
    expected = (
        oracle.conv2d(x, w, b, **case.options),
        *oracle.conv2d_backward(dy, x, w, **case.options),
    )
    with np.errstate(invalid="ignore"):
        got = (
            reference.conv2d(x, w, b, **case.options),
            *reference.conv2d_backward(dy, x, w, **case.options),
        )
    for ours, theirs in zip(got, expected, strict=True):
        assert_array_equal(ours, theirs)
