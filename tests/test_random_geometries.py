"""Thousands of random geometries: the kernels equal the oracle bit for bit, and refuse what it refuses.

All numbers are small integers, so every product and every sum is exact in any order. One test item
runs a hundred geometries; the oracle solves each once for all kernel variants, dtypes and threads.
`PYCONV_TEST_SEED` draws others.
"""

import functools
import math

import cases
import numpy as np
import oracle
import pytest
import reference
from cases import SEED, THREADS, Conv, Pool
from hypothesis import given, settings
from hypothesis import strategies as st

import pyconv
from pyconv import _dispatch

PER_ITEM = 100
PADDINGS = ("valid", "same", "same_lower", "one number", "two numbers", "four numbers")


class Draw:
    """Random numbers by name, so that hypothesis and a seed can both be the source."""

    def __init__(self, rng):
        self.rng = rng

    def between(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def one_of(self, choices):
        return choices[self.between(0, len(choices) - 1)]

    def pair(self, low, high):
        return self.between(low, high), self.between(low, high)


class Shrinkable(Draw):
    """The same from hypothesis, which looks for the smallest numbers that fail."""

    def __init__(self, data):
        self.data = data

    def between(self, low, high):
        return self.data.draw(st.integers(low, high))


def draw_options(draw, kernel):
    """A stride, a padding of any form, and a dilation; padding may be larger than the kernel."""
    form, most = draw.one_of(PADDINGS), max(kernel) + 2
    padding = {
        "one number": lambda: draw.between(0, most),
        "two numbers": lambda: draw.pair(0, most),
        "four numbers": lambda: (draw.pair(0, most), draw.pair(0, most)),
    }.get(form, lambda: form)()
    return {
        "stride": draw.one_of((1, 1, 2, draw.pair(1, 4))),
        "padding": padding,
        "dilation": draw.one_of((1, 1, 2, draw.pair(1, 3))),
    }


def draw_conv(draw, name):
    """A convolution of a few hundred products: any groups, depthwise with a multiplier among them."""
    kernel = draw.pair(1, 4)
    N, H, W = draw.between(1, 3), draw.between(1, 8), draw.between(1, 9)
    groups = draw.one_of((1, 1, 1, 2, 3))
    per_group = draw.one_of((1, 1, 2, 3))
    filters = draw.between(1, 4)
    if draw.between(0, 9) == 0:  # a row long enough for vectors along it
        N, H, W, kernel = 1, draw.between(1, 2), draw.between(10, 40), (1, kernel[1])
    elif draw.between(0, 9) == 0:  # channels enough for vectors along them
        N, H, W, kernel, filters = 1, 2, 3, (1, 2), draw.between(5, 40)
    options = draw_options(draw, kernel) | {"groups": groups}
    return Conv(name, (N, H, W, per_group * groups), kernel, filters * groups, options)


def draw_transposed(draw, name):
    """A transposed convolution; what is cropped may be more than a filter reaches."""
    kernel = draw.pair(1, 4)
    shape = draw.between(1, 3), draw.between(1, 5), draw.between(1, 6)
    groups, per_group, filters = draw.one_of((1, 1, 2, 3)), draw.one_of((1, 2, 3)), draw.between(1, 4)
    if draw.between(0, 9) == 0:  # channels enough for vectors along them
        shape, kernel, filters = (1, 2, 3), (1, 2), draw.between(5, 40)
    options = draw_options(draw, kernel) | {"groups": groups}
    options["output_padding"] = draw.one_of((0, 0, 1, draw.pair(0, 3)))
    return Conv(name, (*shape, per_group * groups), kernel, filters * groups, options)


def draw_pool(draw, name):
    """A pooling; its window may be larger than the image."""
    window = draw.pair(1, 5)
    C = draw.one_of((1, 2, 3, 5, 17))
    shape = (draw.between(1, 2), draw.between(1, 9), draw.between(1, 10), C)
    options = draw_options(draw, window)
    options["stride"] = draw.one_of((options["stride"], None))
    return Pool(name, shape, window, options | {"ceil_mode": draw.between(0, 1) == 1})


def valid_conv(case):
    return all(out > 0 for out, _, _ in cases.conv_geometry(case))


def valid_transposed(case):
    w_shape = (*case.kernel, case.C_out // case.options["groups"], case.x_shape[3])
    _, kept = oracle.transposed_geometry(case.x_shape, w_shape, **case.options)
    return all(part.stop > part.start for part in kept[1:])


def valid_pool(case):
    if min(oracle.pool_shape(case.x_shape, case.window, **case.options)) < 1:
        return False
    windows = oracle.pool_windows(case.x_shape, case.window, **case.options)
    return all(pixels for _, pixels, _ in windows)


@functools.cache
def drawn(kind, item):
    """(those that are valid, those that are not) among the geometries of one test item."""
    rng = Draw(np.random.default_rng((SEED, item)))
    draw, valid = {
        "conv": (draw_conv, valid_conv),
        "transposed": (draw_transposed, valid_transposed),
        "pool": (draw_pool, valid_pool),
    }[kind]
    good, bad = [], []
    while len(good) < PER_ITEM:
        case = draw(rng, f"{kind}-{item}-{len(good)}")
        (good if valid(case) else bad).append(case)
    return good, bad


def demand(ours, theirs, dtype, what, case):
    """Equal bits; cheaper than numpy.testing where it is asked half a million times."""
    if ours.dtype != dtype or ours.tobytes() != theirs.astype(dtype).tobytes():
        pytest.fail(f"{what} of {case!r} in {dtype}:\n{ours}\nexpected\n{theirs}")


def inner(a, b):
    """<a, b>, exactly: float64 holds sums of integers up to 2**53."""
    return np.vdot(a.astype(float), b.astype(float))


# -------------------------------------------------------------------------------- convolution


def check_conv(case, dtype, expected):
    x, w, b, dy = cases.arrays(case, dtype)
    for num_threads in THREADS:
        y = pyconv.conv2d(x, w, b, **case.options, num_threads=num_threads)
        gradients = pyconv.conv2d_backward(dy, x, w, **case.options, num_threads=num_threads)
        for name, ours, theirs in zip(
            ("y", "dx", "dw", "db"), (y, *gradients), expected, strict=True
        ):
            demand(ours, theirs, dtype, f"{name} on {num_threads} threads", case)
    dx, dw, db = gradients
    product = inner(y, dy) - inner(b, db)  # <conv(x, w), dy> = <x, dx> = <w, dw>
    assert inner(x, dx) == inner(w, dw) == product, case


@pytest.mark.parametrize("item", range(24))
def test_convolutions(item, dtype, isa, direct):
    for case in drawn("conv", item)[0]:
        check_conv(case, dtype, cases.solved(case))


@pytest.mark.parametrize("item", range(24))
def test_convolutions_without_output_are_refused(item):
    for case in drawn("conv", item)[1]:
        x, w, _, _ = (np.zeros(shape) for shape in (case.x_shape, case.w_shape, 1, 1))
        with pytest.raises(ValueError, match="the output would be empty"):
            pyconv.conv2d(x, w, **case.options)


def test_what_was_drawn():
    """Each kind of geometry that is easy to get wrong comes up often."""
    everything = [case for item in range(24) for case in drawn("conv", item)[0]]
    problems = {(c.x_shape, c.kernel, c.C_out, str(c.options)) for c in everything}
    assert len(problems) > 0.99 * len(everything) == 0.99 * 2400

    def count(condition):
        return sum(bool(condition(case, case.options)) for case in everything)

    assert count(lambda c, o: not isinstance(o["stride"], int)) > 300
    assert count(lambda c, o: not isinstance(o["dilation"], int)) > 300
    assert count(lambda c, o: 1 < o["groups"] < c.x_shape[3]) > 100
    assert count(lambda c, o: 1 < o["groups"] == c.x_shape[3] < c.C_out) > 100
    assert count(lambda c, o: c.kernel[0] > c.x_shape[1]) > 100
    for form in PADDINGS[:3]:
        assert count(lambda c, o, form=form: o["padding"] == form) > 100
    over = count(lambda c, o: not isinstance(o["padding"], str)
                 and np.max(o["padding"]) > max(c.kernel))  # fmt: skip
    assert over > 300
    uneven = count(lambda c, o: np.ndim(o["padding"]) == 2 and o["padding"][0][0] != o["padding"][0][1])
    assert uneven > 100


@given(st.data())
@settings(max_examples=100, derandomize=True, database=None, deadline=None)
def test_the_smallest_convolution_that_fails(data):
    """Finds nothing that the others do not; but says what is wrong with few and small numbers."""
    case = draw_conv(Shrinkable(data), "hypothesis")
    if valid_conv(case):
        pyconv.set_algorithm("direct")
        try:
            for isa in _dispatch.available_kernels():
                with _dispatch.use(isa):
                    check_conv(case, np.float32, cases.solved(case))
        finally:
            pyconv.set_algorithm("auto")


@pytest.mark.parametrize("item", range(10))
def test_transposed_convolutions(item, dtype, isa, direct):
    for case in drawn("transposed", item)[0]:
        x, w, b, dy = cases.transposed_arrays(case, dtype)
        for num_threads in THREADS:
            options = case.options | {"num_threads": num_threads}
            y = pyconv.conv2d_transpose(x, w, b, **options)
            gradients = pyconv.conv2d_transpose_backward(dy, x, w, **options)
            for name, ours, theirs in zip(("y", "dx", "dw", "db"), (y, *gradients),
                                          cases.solved_transposed(case), strict=True):  # fmt: skip
                demand(ours, theirs, dtype, f"transposed {name} on {num_threads} threads", case)
        dx, dw, db = gradients
        product = inner(y, dy) - inner(b, db)
        assert inner(x, dx) == inner(w, dw) == product, case


@pytest.mark.parametrize("item", range(10))
def test_transposed_convolutions_without_output_are_refused(item):
    for case in drawn("transposed", item)[1]:
        w = np.zeros((*case.kernel, case.C_out // case.options["groups"], case.x_shape[3]))
        with pytest.raises(ValueError, match="would be empty"):
            pyconv.conv2d_transpose(np.zeros(case.x_shape), w, **case.options)


# ----------------------------------------------------- larger ones, against the fast reference


def draw_layer(draw, name):
    """Several work items, and channels around the edges of vectors and of blocks."""
    kernel = draw.one_of(((1, 1), (3, 3), (5, 5), draw.pair(1, 7)))
    channels = (1, 2, 3, 4, 6, 8, 12, 13, 16, 24, 31, 32, 33, 40, 48, 64, 65, 96)
    C_in, C_out, groups = draw.one_of(channels), draw.one_of(channels), 1
    if draw.between(0, 3) == 0:
        groups = draw.one_of((2, 4))
        C_in, C_out = groups * draw.one_of(channels[:14]), groups * draw.one_of(channels[:14])
    elif draw.between(0, 3) == 0:
        groups, C_out = C_in, C_in * draw.between(1, 5)
    shape = (draw.between(1, 4), draw.between(5, 24), draw.between(5, 40), C_in)
    options = draw_options(draw, kernel) | {"groups": groups}
    return Conv(name, shape, kernel, C_out, options)


def draw_winograd(draw, name):
    """3x3 at stride 1 with at least 16 channels and 128 outputs: what Winograd is taken for."""
    H, W, most = draw.between(3, 14), draw.between(3, 14), draw.pair(0, 2)
    N = -(-128 // (H * W)) + draw.between(0, 1)
    padding = draw.one_of(("same", 1, most, (most, draw.pair(0, 3))))
    return Conv(name, (N, H, W, draw.between(16, 70)), (3, 3), draw.between(16, 70),
                {"padding": padding})  # fmt: skip


@functools.cache
def drawn_layers(draw, count, item):
    rng, found = Draw(np.random.default_rng((SEED, 1000 + item))), []
    while len(found) < count:
        case = draw(rng, f"layer-{item}-{len(found)}")
        if valid_conv(case):
            found.append(case)
    return found


@functools.cache
def referenced(case):
    x, w, b, dy = cases.arrays(case, np.float64)
    gradients = reference.conv2d_backward(dy, x, w, **case.options)
    return reference.conv2d(x, w, b, **case.options), *gradients


@pytest.mark.parametrize("item", range(20))
def test_layers(item, dtype, isa, direct):
    for case in drawn_layers(draw_layer, 15, item):
        check_conv(case, dtype, referenced(case))


@pytest.mark.parametrize("item", range(5))
def test_winograd_rounds_to_the_right_integers(item, isa):
    """Its points are roots of 2, so its sums are not integers; but the nearest ones are right."""
    taken = set()
    for case in drawn_layers(draw_winograd, 20, item):
        taken |= {pyconv.conv2d_algorithm(case.x_shape, case.w_shape, **case.options, direction=d)
                  for d in ("y", "dx", "dw")}  # fmt: skip
        x, w, b, dy = cases.arrays(case, np.float32)
        results = set()
        for num_threads in THREADS:
            y = pyconv.conv2d(x, w, b, **case.options, num_threads=num_threads)
            gradients = pyconv.conv2d_backward(dy, x, w, **case.options, num_threads=num_threads)
            results.add(b"".join(array.tobytes() for array in (y, *gradients)))
        assert len(results) == 1, case
        for name, ours, theirs in zip(
            ("y", "dx", "dw", "db"), (y, *gradients), referenced(case), strict=True
        ):
            demand(np.rint(ours) + np.float32(0), theirs, np.float32, name, case)  # -0 + 0 = 0
    assert "winograd" in taken


# ------------------------------------------------------------------------------------ pooling


@functools.cache
def solved_max(case):
    """(x, dy, y, indices, dx), as float64. All of x is negative: padding with zeros would show."""
    rng = np.random.default_rng(SEED)
    x = cases.integers(rng, case.x_shape, float, largest=2) - 3  # few values: many ties
    y, indices = oracle.max_pool2d(x, case.window, **case.options)
    dy = cases.integers(rng, y.shape, float)
    return x, dy, y, indices, oracle.max_pool2d_backward(dy, indices, x.shape)


@functools.cache
def solved_average(case, count_include_pad):
    """(x, dy, y, dx): multiples of every divisor that occurs, so that quotients are integers."""
    rng, options = np.random.default_rng(SEED), {"count_include_pad": count_include_pad}
    counts = {n for _, pixels, padded in oracle.pool_windows(case.x_shape, case.window, **case.options)
              for n in (len(pixels), padded)}  # fmt: skip
    x = cases.integers(rng, case.x_shape, float) * math.lcm(*counts)
    y = oracle.avg_pool2d(x, case.window, **case.options, **options)
    dy = cases.integers(rng, y.shape, float) * math.lcm(*counts)
    dx = oracle.avg_pool2d_backward(dy, x.shape, case.window, **case.options, **options)
    return x, dy, y, dx


def check_max(case, dtype):
    x, dy, y, indices, dx = solved_max(case)
    x, dy = x.astype(dtype), dy.astype(dtype)
    for num_threads in THREADS:
        options = case.options | {"num_threads": num_threads}
        ours, winners = pyconv.max_pool2d(x, case.window, **options, return_indices=True)
        alone = pyconv.max_pool2d(x, case.window, **options)
        gradient = pyconv.max_pool2d_backward(dy, winners, x.shape, num_threads=num_threads)
        demand(ours, y, dtype, "max", case)
        demand(alone, y, dtype, "max without indices", case)
        demand(winners, indices, np.int32, "indices", case)
        demand(gradient, dx, dtype, "gradient of max", case)
    assert inner(ours, dy) == inner(x, gradient), case


def check_average(case, count_include_pad, dtype):
    x, dy, y, dx = solved_average(case, count_include_pad)
    # Where some quotient of float32 would not be an integer below 2**24, float64 alone is exact.
    if dtype == np.float32 and max(abs(a).max(initial=0) for a in (x, dy, dx)) * x.size >= 2**24:
        return False
    options = case.options | {"count_include_pad": count_include_pad}
    x, dy = x.astype(dtype), dy.astype(dtype)
    for num_threads in THREADS:
        ours = pyconv.avg_pool2d(x, case.window, **options, num_threads=num_threads)
        gradient = pyconv.avg_pool2d_backward(
            dy, x.shape, case.window, **options, num_threads=num_threads)
        demand(ours, y, dtype, f"average, count_include_pad={count_include_pad},", case)
        demand(gradient, dx, dtype, f"its gradient, count_include_pad={count_include_pad},", case)
    return True


@pytest.mark.parametrize("item", range(12))
def test_pools(item, dtype, isa):
    compared = 0
    for case in drawn("pool", item)[0]:
        check_max(case, dtype)
        compared += check_average(case, False, dtype) + check_average(case, True, dtype)
    assert compared > 0.8 * 2 * PER_ITEM


@pytest.mark.parametrize("item", range(12))
def test_pools_with_a_window_in_the_padding_are_refused(item):
    refused = drawn("pool", item)[1]
    for case in refused:
        for pool in (pyconv.max_pool2d, pyconv.avg_pool2d):
            with pytest.raises(ValueError, match=r"wholly into the padding|output would be empty"):
                pool(np.zeros(case.x_shape), case.window, **case.options)
    assert len(refused) > 20


def test_which_pools_were_drawn():
    everything = [case for item in range(12) for case in drawn("pool", item)[0]]

    def count(condition):
        return sum(bool(condition(case, case.options)) for case in everything)

    assert count(lambda c, o: c.window[0] > c.x_shape[1]) > 50
    assert count(lambda c, o: o["ceil_mode"]) > 400
    assert count(lambda c, o: o["dilation"] != 1) > 300
    assert count(lambda c, o: o["stride"] is None) > 300
    assert count(lambda c, o: np.ndim(o["padding"]) == 2) > 50


@given(st.data())
@settings(max_examples=100, derandomize=True, database=None, deadline=None)
def test_the_smallest_pool_that_fails(data):
    case = draw_pool(Shrinkable(data), "hypothesis")
    if valid_pool(case):
        for isa in _dispatch.available_kernels():
            with _dispatch.use(isa):
                check_max(case, np.float32)
                check_average(case, True, np.float64)
