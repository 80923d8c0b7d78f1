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


def test_conv2d_transpose_spreads_each_pixel_over_a_filter():
    x, w = image([[1, 10, 100]]), filters([[1, 2, 3]])
    y = oracle.conv2d_transpose(x, w, np.array([1000.0]), stride=(1, 2))
    assert_array_equal(y, image([[1001, 1002, 1013, 1020, 1130, 1200, 1300]]))
    # 7 columns, of which "same" keeps 6: nothing is cropped before, since 1 // 2 is 0.
    y = oracle.conv2d_transpose(x, w, stride=(1, 2), padding="same")
    assert_array_equal(y, image([[1, 2, 13, 20, 130, 200]]))
    y = oracle.conv2d_transpose(x, w, stride=(1, 2), padding="same_lower")
    assert_array_equal(y, image([[2, 13, 20, 130, 200, 300]]))
    options = {"stride": (1, 2), "padding": ((0, 0), (1, 0)), "output_padding": (0, 1)}
    assert_array_equal(oracle.conv2d_transpose(x, w, **options), image([[2, 13, 20, 130, 200, 300, 0]]))
    # With output padding 8 columns, of which "same" drops one before and one behind.
    y = oracle.conv2d_transpose(x, w, stride=(1, 2), padding="same", output_padding=(0, 1))
    assert_array_equal(y, image([[2, 13, 20, 130, 200, 300]]))
    dilated = oracle.conv2d_transpose(image([[1, 10]]), filters([[1, 2]]), dilation=(1, 3))
    assert_array_equal(dilated, image([[1, 10, 0, 2, 20]]))


def test_conv2d_transpose_groups_keep_channels_apart():
    x = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 1, 4)
    w = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)  # w[0, 0, o, i]
    assert_array_equal(oracle.conv2d_transpose(x, w, groups=2).ravel(), [1 + 20, 300 + 4000])


def test_conv2d_transpose_backward():
    x, w = image([[1, 2]]), filters([[10, 20]])
    # y = [10, 20 + 20, 40]; its first column is cropped.
    dx, dw, db = oracle.conv2d_transpose_backward(
        image([[5, 7]]), x, w, padding=((0, 0), (1, 0))
    )
    assert_array_equal(dx, image([[20 * 5, 10 * 5 + 20 * 7]]))
    assert_array_equal(dw, filters([[2 * 5, 1 * 5 + 2 * 7]]))
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


def test_cross_entropy_smoothed_and_weighted():
    logits = np.log([[1.0, 1.0, 2.0], [1.0, 2.0, 5.0]])
    # Smoothed by 0.3, class 2 becomes (0.1, 0.1, 0.8): log 4 - 0.8 log 2.
    loss, dlogits = oracle.softmax_cross_entropy(logits[:1], np.array([2]), label_smoothing=0.3)
    assert loss == pytest.approx(np.log(4) - 0.8 * np.log(2))
    assert_allclose(dlogits, [[0.15, 0.15, -0.3]])
    rows = np.array([[0.0, 0.0, 1.0], [0.5, 0.25, 0.25]])
    weights = {"class_weight": [2.0, 7.0, 3.0], "sample_weight": [1.0, 10.0]}
    loss, dlogits = oracle.softmax_cross_entropy(logits, rows, **weights)
    second = np.log(8) - 0.25 * np.log(2) - 0.25 * np.log(5)
    assert loss == pytest.approx((3 * np.log(2) + 20 * second) / 2)
    assert_allclose(dlogits, [[0.375, 0.375, -0.75], [10 * -0.375, 0, 10 * 0.375]], atol=1e-15)


def test_binary_cross_entropy_of_known_odds():
    logits = np.log([[3.0], [1 / 3]])
    loss, dlogits = oracle.binary_cross_entropy(logits, np.array([[1], [1]]))
    assert loss == pytest.approx((np.log(4 / 3) + np.log(4)) / 2)
    assert_allclose(dlogits, [[-1 / 8], [-3 / 8]])
    options = {"label_smoothing": 0.5, "sample_weight": [0.0, 2.0]}
    loss, dlogits = oracle.binary_cross_entropy(logits, np.array([[1], [1]]), **options)
    assert loss == pytest.approx(0.75 * np.log(4) + 0.25 * np.log(4 / 3))
    assert_allclose(dlogits, [[0], [-1 / 2]])


def test_mean_squared_error():
    y, targets = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [3.0, 7.0]])
    loss, dy = oracle.mean_squared_error(y, targets)
    assert loss == (4 + 9) / 4
    assert_array_equal(dy, [[0, 1], [0, -1.5]])
    loss, dy = oracle.mean_squared_error(y, targets, sample_weight=[1, 2])
    assert loss == (4 + 18) / 4
    assert_array_equal(dy, [[0, 1], [0, -3]])


def test_activations():
    x = np.array([-2.0, 0.0, 3.0])
    assert_array_equal(oracle.leaky_relu(x, 0.25), [-0.5, 0, 3])
    assert_array_equal(oracle.leaky_relu_backward(x, x, 0.25), [-0.5, 0, 3])
    assert_allclose(oracle.elu(x, 2.0), [2 * np.exp(-2) - 2, 0, 3])
    assert_array_equal(oracle.elu_backward(x, np.array([-1.5, 0, 3]), 2.0), [-1, 0, 3])
    assert_allclose(oracle.sigmoid(np.log([1 / 3, 1, 3])), [1 / 4, 1 / 2, 3 / 4])
    assert_allclose(oracle.tanh(np.log([1 / 2, 1, 2])), [-3 / 5, 0, 3 / 5])
    y = np.array([0.25, 0.5, 0.75])
    assert_array_equal(oracle.sigmoid_backward(np.array([16.0, 4, 16]), y), [3, 1, 3])
    assert_array_equal(oracle.tanh_backward(np.array([16.0, 4, 16]), y), [15, 3, 7])
    dx = oracle.softmax_backward(np.array([[8.0, 0, 4]]), np.array([[0.25, 0.5, 0.25]]))
    assert_array_equal(dx, [[5 / 4, -3 / 2, 1 / 4]])


def test_philox_and_dropout():
    # The known answer of Random123's tests for a counter and a key of zeros.
    assert oracle.philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    x = np.arange(1.0, 19.0)
    y = oracle.dropout(x, 0.5, 0)
    # 0x66... is below a half, 0xe1... is not: elements 0 and 16 have the words 0 and 1 of counter 0.
    assert (y[0], y[16]) == (0, 34)
    assert_array_equal(oracle.dropout(x, 0.0, 0), x)


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


def test_weight_decay_takes_a_share_first():
    param, _, _ = oracle.adam_step(
        np.array([8.0]), np.array([0.0]), np.zeros(1), np.zeros(1), step=1, learning_rate=0.5,
        weight_decay=0.25,
    )
    assert_array_equal(param, [7.0])


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    param, grad, v = np.array([10.0]), np.array([4.0]), np.array([16.0])
    param, v, velocity = oracle.rmsprop_step(
        param, grad, v, np.array([2.0]), learning_rate=0.5, rho=0.5, momentum=0.25, epsilon=0.0
    )
    assert_array_equal([param, v, velocity], [[9.0], [16.0], [1.0]])


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
