"""The geometries that several tests share: one named table each for convolution and for pooling.

A case is a shape of problem without values; `integers` fills it. Small integers of both signs make
every product and sum exact in float32, so results compare with `==` in any order of summation.
"""

import functools
import os
from dataclasses import dataclass, field

import numpy as np
import oracle

SEED = int(os.environ.get("PYCONV_TEST_SEED", "0"))
THREADS = (1, 2, 3)
"""Thread counts that every result is asked for with: fewer, as many, and more than two cores."""

CHANNELS = (1, 3, 5, 6, 8, 12, 16, 17, 31, 32, 33, 40, 48, 64)
"""Channel counts on both sides of the edges of vectors (4, 8, 16) and of blocks (32, 48)."""


@dataclass(frozen=True)
class Conv:
    """A convolution: x (N, H, W, C_in) with C_out filters of `kernel`."""

    name: str
    x_shape: tuple
    kernel: tuple
    C_out: int
    options: dict = field(default_factory=dict, hash=False)

    @property
    def w_shape(self):
        return (*self.kernel, self.x_shape[3] // self.options.get("groups", 1), self.C_out)

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Pool:
    """A pooling: x (N, H, W, C) with `window`."""

    name: str
    x_shape: tuple
    window: int | tuple
    options: dict = field(default_factory=dict, hash=False)

    def __str__(self):
        return self.name


CONVOLUTIONS = [
    Conv("plain", (2, 5, 6, 3), (3, 3), 4),
    Conv("1x1", (2, 3, 4, 5), (1, 1), 7),
    Conv("1x1-strided", (1, 5, 7, 3), (1, 1), 2, {"stride": 2}),
    Conv("kernel-is-image", (2, 4, 3, 2), (4, 3), 5),
    Conv("one-pixel", (1, 1, 1, 1), (1, 1), 1),
    Conv("row", (1, 1, 9, 2), (1, 3), 3),
    Conv("column", (1, 9, 1, 2), (3, 1), 3),
    Conv("even-kernel-same", (2, 5, 6, 2), (4, 2), 3, {"padding": "same"}),
    Conv("even-kernel-same-lower", (2, 5, 6, 2), (4, 2), 3, {"padding": "same_lower"}),
    Conv("same", (2, 5, 6, 3), (3, 3), 4, {"padding": "same"}),
    Conv("same-stride-2-even", (1, 6, 8, 2), (3, 3), 3, {"padding": "same", "stride": 2}),
    Conv("same-stride-2-odd", (1, 5, 7, 2), (3, 3), 3, {"padding": "same", "stride": 2}),
    Conv("same-lower-stride-2", (1, 6, 8, 2), (3, 3), 3, {"padding": "same_lower", "stride": 2}),
    Conv("same-stride-over-kernel", (1, 9, 7, 2), (2, 2), 3, {"padding": "same", "stride": 4}),
    Conv("same-dilated", (1, 6, 5, 2), (3, 2), 3, {"padding": "same", "dilation": 2}),
    Conv("same-dilated-strided", (1, 7, 8, 2), (3, 3), 2,
         {"padding": "same", "dilation": (2, 3), "stride": (3, 2)}),
    Conv("strides-2-3", (2, 7, 9, 2), (3, 2), 3, {"stride": (2, 3)}),
    Conv("stride-over-kernel", (1, 8, 9, 2), (2, 2), 3, {"stride": 3}),
    Conv("stride-over-image", (1, 4, 4, 2), (2, 2), 3, {"stride": 9}),
    Conv("stride-leaves-rest", (1, 6, 6, 2), (3, 3), 2, {"stride": 2}),
    Conv("padding-1", (2, 4, 5, 2), (3, 3), 3, {"padding": 1}),
    Conv("padding-pair", (1, 4, 5, 2), (3, 3), 3, {"padding": (0, 2)}),
    Conv("padding-sides", (1, 4, 5, 2), (3, 3), 3, {"padding": ((0, 1), (2, 0))}),
    Conv("padding-one-side", (1, 4, 5, 2), (2, 3), 3, {"padding": ((0, 0), (0, 3))}),
    Conv("padding-over-kernel", (1, 2, 3, 2), (2, 2), 3, {"padding": ((3, 4), (5, 2))}),
    Conv("padding-strided", (1, 5, 6, 2), (3, 3), 3, {"padding": ((2, 1), (0, 3)), "stride": 2}),
    Conv("kernel-over-image", (1, 2, 3, 2), (5, 5), 3, {"padding": 2}),
    Conv("dilation-2", (1, 7, 8, 2), (3, 3), 3, {"dilation": 2}),
    Conv("dilation-1-3", (1, 4, 9, 2), (2, 3), 3, {"dilation": (1, 3)}),
    Conv("dilation-strided-padded", (2, 6, 7, 2), (3, 2), 3,
         {"dilation": (2, 3), "stride": (1, 2), "padding": ((2, 1), (1, 2))}),
    Conv("groups-2", (2, 4, 5, 4), (3, 3), 6, {"groups": 2}),
    Conv("groups-3-same", (1, 4, 5, 9), (3, 2), 6, {"groups": 3, "padding": "same"}),
    Conv("groups-everything", (1, 7, 8, 6), (3, 2), 4,
         {"groups": 2, "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}),
    Conv("groups-fill-a-vector", (2, 3, 3, 4), (2, 2), 16, {"groups": 2}),
    Conv("depthwise", (2, 5, 6, 7), (3, 3), 7, {"groups": 7, "padding": "same"}),
    Conv("depthwise-multiplier", (1, 5, 6, 3), (3, 3), 6, {"groups": 3, "stride": 2}),
    Conv("channels-5-to-17", (1, 4, 4, 5), (3, 3), 17, {"padding": "same"}),
    # So narrow that columns of outputs with the same taps inside the image are summed by themselves.
    Conv("narrow-same", (1, 13, 6, 3), (2, 7), 17, {"padding": "same"}),
    Conv("narrow-valid", (1, 11, 9, 6), (3, 6), 17),
    Conv("narrow-dilated", (1, 12, 8, 7), (2, 4), 17, {"padding": "same", "dilation": (1, 3)}),
    Conv("narrow-strided", (1, 13, 11, 9), (3, 5), 17, {"stride": 2, "dilation": (2, 1)}),
    Conv("narrow-groups", (1, 9, 7, 4), (2, 6), 20, {"padding": ((4, 2), (3, 5)), "groups": 2}),
    # So many images of few outputs that tiles take a pixel of each.
    Conv("small-images", (37, 3, 4, 2), (3, 3), 33, {"padding": "same", "stride": 2}),
    Conv("small-images-groups", (37, 3, 4, 4), (2, 3), 40,
         {"padding": ((3, 2), (4, 5)), "dilation": (1, 2), "stride": 3, "groups": 2}),
    Conv("channels-17-to-3", (1, 4, 4, 17), (2, 2), 3),
]  # fmt: skip

POOLS = [
    Pool("2x2", (2, 4, 6, 3), 2),
    Pool("2x2-rest", (1, 5, 7, 3), 2),
    Pool("1x1", (1, 3, 4, 2), 1),
    Pool("window-is-image", (2, 3, 5, 4), (3, 5)),
    Pool("3x2", (1, 7, 6, 2), (3, 2)),
    Pool("overlapping", (2, 6, 7, 3), 3, {"stride": 2}),
    Pool("stride-1", (1, 4, 5, 2), (2, 3), {"stride": 1}),
    Pool("stride-over-window", (1, 8, 9, 2), 2, {"stride": (3, 4)}),
    Pool("same", (1, 5, 7, 2), 3, {"stride": 2, "padding": "same"}),
    Pool("same-2x2", (1, 5, 7, 2), 2, {"padding": "same"}),
    Pool("same-lower", (1, 6, 8, 2), 3, {"stride": 2, "padding": "same_lower"}),
    Pool("padding-1", (1, 5, 6, 2), 3, {"stride": 2, "padding": 1}),
    Pool("padding-pair", (1, 5, 6, 2), 3, {"stride": 1, "padding": (2, 0)}),
    Pool("padding-sides", (1, 5, 6, 2), (3, 4), {"stride": 2, "padding": ((0, 2), (3, 1))}),
    Pool("dilated", (1, 7, 8, 2), 3, {"stride": 1, "dilation": 2}),
    Pool("dilated-1-3", (1, 5, 9, 2), 2, {"dilation": (1, 3)}),
    Pool("dilated-same", (1, 6, 7, 2), (3, 2),
         {"stride": 2, "dilation": (2, 3), "padding": "same"}),
    Pool("ceil", (1, 5, 7, 2), 2, {"ceil_mode": True}),
    Pool("ceil-3-2", (1, 6, 8, 2), 3, {"stride": 2, "ceil_mode": True}),
    Pool("ceil-padded", (1, 6, 7, 2), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    Pool("ceil-drops-window", (1, 3, 5, 2), 2, {"padding": 1, "ceil_mode": True}),
    Pool("ceil-drops-windows", (1, 3, 4, 2), 2,
         {"stride": (1, 2), "padding": ((0, 3), (1, 6)), "ceil_mode": True}),
    Pool("ceil-stride-over-window", (1, 7, 8, 2), 2, {"stride": 3, "ceil_mode": True}),
    Pool("ceil-sides", (1, 7, 6, 2), (3, 2),
         {"stride": (3, 4), "padding": ((1, 2), (0, 1)), "ceil_mode": True}),
    Pool("ceil-dilated", (1, 8, 9, 2), 2, {"stride": 3, "dilation": 2, "ceil_mode": True}),
    Pool("ceil-same", (1, 5, 6, 2), 3, {"stride": 2, "padding": "same", "ceil_mode": True}),
    Pool("window-over-image", (1, 3, 2, 3), (5, 4), {"stride": 1, "padding": ((1, 2), (2, 1))}),
    Pool("window-over-image-ceil", (1, 2, 3, 3), 6,
         {"stride": (2, 3), "padding": ((0, 3), (2, 0)), "ceil_mode": True}),
    Pool("window-over-image-dilated", (1, 3, 4, 17), (3, 4),
         {"stride": (3, 1), "dilation": (2, 3), "padding": ((1, 1), (3, 3))}),
    Pool("window-over-image-same", (2, 2, 3, 9), 7, {"padding": "same"}),
    Pool("dilation-over-image", (1, 3, 2, 2), 3, {"stride": 1, "dilation": 5, "padding": 5}),
    Pool("ceil-far-behind", (1, 7, 2, 5), (4, 3),
         {"padding": ((1, 6), (1, 5)), "ceil_mode": True}),
    Pool("channels-17", (1, 4, 4, 17), 2),
    Pool("channels-40", (2, 5, 5, 40), 3, {"stride": 2, "padding": "same"}),
]  # fmt: skip


TRANSPOSED = [  # x (N, H, W, C_in), and here w is (*kernel, C_out // groups, C_in)
    Conv("plain", (2, 3, 4, 3), (3, 3), 5),
    Conv("1x1", (1, 3, 4, 5), (1, 1), 2),
    Conv("one-pixel", (1, 1, 1, 1), (1, 1), 1),
    Conv("4x4-stride-2-same", (2, 3, 4, 3), (4, 4), 4, {"stride": 2, "padding": "same"}),
    Conv("4x4-stride-2-crop-1", (1, 3, 4, 2), (4, 4), 3, {"stride": 2, "padding": 1}),
    Conv("2x2-stride-2", (1, 3, 4, 3), (2, 2), 4, {"stride": 2}),
    Conv("3x3-stride-2-same", (1, 3, 4, 2), (3, 3), 3, {"stride": 2, "padding": "same"}),
    Conv("3x3-stride-2-same-lower", (1, 4, 3, 2), (3, 3), 3,
         {"stride": 2, "padding": "same_lower"}),
    Conv("same", (1, 4, 5, 3), (3, 2), 4, {"padding": "same"}),
    Conv("same-stride-over-kernel", (1, 3, 2, 2), (2, 2), 3, {"stride": 4, "padding": "same"}),
    Conv("same-output-padding", (1, 3, 2, 2), (3, 3), 3,
         {"stride": 2, "padding": "same", "output_padding": 1}),
    Conv("stride-over-kernel", (1, 3, 2, 2), (2, 1), 3, {"stride": 3}),
    Conv("output-padding", (1, 3, 4, 2), (3, 3), 3,
         {"stride": 2, "padding": 1, "output_padding": 1}),
    Conv("output-padding-pair", (1, 3, 4, 2), (2, 3), 3,
         {"stride": (3, 2), "output_padding": (2, 1)}),
    Conv("output-padding-over-stride", (1, 2, 3, 2), (2, 2), 3, {"output_padding": (3, 4)}),
    Conv("crop-sides", (1, 4, 5, 2), (3, 3), 3, {"padding": ((0, 2), (1, 0)), "stride": (1, 2)}),
    Conv("crop-over-kernel", (1, 6, 5, 2), (2, 2), 3, {"padding": ((3, 1), (0, 3))}),
    Conv("crop-all-but-one", (1, 2, 2, 2), (3, 3), 3, {"padding": ((3, 0), (1, 2))}),
    Conv("dilated", (1, 3, 4, 2), (3, 2), 3, {"dilation": (2, 3)}),
    Conv("dilated-strided", (1, 4, 3, 2), (3, 3), 3,
         {"dilation": (2, 3), "stride": (3, 2), "padding": "same"}),
    Conv("groups", (2, 3, 4, 6), (3, 3), 4, {"groups": 2, "stride": 2, "padding": 1}),
    Conv("groups-everything", (1, 4, 3, 6), (3, 2), 9,
         {"groups": 3, "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2),
          "output_padding": (1, 0)}),
    Conv("depthwise", (2, 3, 4, 7), (3, 3), 7, {"groups": 7, "stride": 2, "padding": "same"}),
    Conv("depthwise-multiplier", (1, 4, 3, 6), (3, 3), 3, {"groups": 3}),
    Conv("one-to-each", (1, 3, 4, 3), (2, 2), 6, {"groups": 3}),
    Conv("channels-17-to-5", (1, 4, 4, 17), (3, 3), 5, {"stride": 2}),
    Conv("channels-3-to-33", (1, 4, 4, 3), (4, 4), 33, {"stride": 2, "padding": "same"}),
    Conv("row", (1, 1, 5, 2), (1, 3), 3, {"stride": (1, 2)}),
    Conv("1x1-moved", (1, 2, 3, 9), (1, 1), 6, {"padding": "same_lower", "output_padding": (1, 3)}),
    Conv("1x1-moved-row", (1, 1, 2, 9), (1, 1), 6, {"padding": "same_lower", "output_padding": (0, 1)}),
    Conv("1x1-moved-all", (3, 4, 5, 9), (1, 1), 11, {"padding": "same_lower", "output_padding": (0, 1)}),
]  # fmt: skip


def integers(rng, shape, dtype, largest=4):
    """Whole numbers from -largest to largest, as `dtype`."""
    return rng.integers(-largest, largest + 1, shape).astype(dtype)


def arrays(case, dtype):
    """The integer-valued x, w, b and dy of a convolution; the same ones at every call."""
    rng = np.random.default_rng(SEED)
    sizes = conv_geometry(case)
    y_shape = (case.x_shape[0], sizes[0][0], sizes[1][0], case.C_out)
    shapes = case.x_shape, case.w_shape, (case.C_out,), y_shape
    return tuple(integers(rng, shape, dtype) for shape in shapes)


def conv_geometry(case):
    """(output size, padding before, padding behind) of the height and of the width."""
    options = {"stride": 1, "padding": "valid", "dilation": 1, "groups": 1} | case.options
    options.pop("groups")
    return oracle.geometry(case.x_shape, case.kernel, **options)


def _draw_options(rng):
    """A stride, a padding and a dilation; the plain ones come up often."""
    pair = lambda low, high: tuple(int(v) for v in rng.integers(low, high + 1, 2))  # noqa: E731
    paddings = ("valid", "same", "same_lower", int(rng.integers(3)), pair(0, 2),
                (pair(0, 3), pair(0, 3)))  # fmt: skip
    return {
        "stride": (1, pair(1, 3))[rng.integers(2)],
        "padding": paddings[rng.integers(len(paddings))],
        "dilation": (1, pair(1, 3))[rng.integers(2)],
    }


def random_geometries(count, seed):
    """`count` random convolutions with at least one output pixel."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        groups = int(rng.choice((1, 1, 1, 2, 3)))
        N, H, W, C_in, C_out = (int(v) for v in rng.integers(1, (3, 9, 10, 5, 5)))
        kernel = tuple(int(v) for v in rng.integers(1, 5, 2))
        case = Conv(f"random-{seed}-{len(found)}", (N, H, W, C_in * groups), kernel,
                    C_out * groups, _draw_options(rng) | {"groups": groups})  # fmt: skip
        if all(out > 0 for out, _, _ in conv_geometry(case)):
            found.append(case)
    return found


def random_pools(count, seed):
    """`count` random poolings in which every window holds at least one pixel."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        x_shape = tuple(int(v) for v in rng.integers(1, (3, 10, 11, 6)))
        window = tuple(int(v) for v in rng.integers(1, 5, 2))
        options = _draw_options(rng) | {"ceil_mode": bool(rng.integers(2))}
        sizes = oracle.pool_shape(x_shape, window, **options)
        if min(sizes) > 0 and all(p for _, p, _ in oracle.pool_windows(x_shape, window, **options)):
            found.append(Pool(f"random-{seed}-{len(found)}", x_shape, window, options))
    return found


@functools.cache
def solved(case):
    """(y, dx, dw, db) of a convolution with `arrays`, by the oracle, in float64."""
    x, w, b, dy = arrays(case, np.float64)
    return oracle.conv2d(x, w, b, **case.options), *oracle.conv2d_backward(
        dy, x, w, **case.options
    )


def transposed_arrays(case, dtype):
    """The integer-valued x, w, b and dy of a transposed convolution; the same ones at every call."""
    rng = np.random.default_rng(SEED)
    w_shape = (*case.kernel, case.C_out // case.options.get("groups", 1), case.x_shape[3])
    (N, *_), kept = oracle.transposed_geometry(case.x_shape, w_shape, **case.options)
    y_shape = (N, *(part.stop - part.start for part in kept[1:]), case.C_out)
    shapes = case.x_shape, w_shape, (case.C_out,), y_shape
    return tuple(integers(rng, shape, dtype) for shape in shapes)


@functools.cache
def solved_transposed(case):
    """(y, dx, dw, db) of a transposed convolution, by the oracle, in float64."""
    x, w, b, dy = transposed_arrays(case, np.float64)
    return oracle.conv2d_transpose(x, w, b, **case.options), *oracle.conv2d_transpose_backward(
        dy, x, w, **case.options
    )


def random_transposed(count, seed):
    """`count` random transposed convolutions with at least one output pixel."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        groups = int(rng.choice((1, 1, 1, 2, 3)))
        N, H, W, C_in, C_out = (int(v) for v in rng.integers(1, (3, 6, 7, 5, 5)))
        kernel = tuple(int(v) for v in rng.integers(1, 5, 2))
        more = (0, tuple(int(v) for v in rng.integers(0, 4, 2)))[rng.integers(2)]
        options = _draw_options(rng) | {"groups": groups, "output_padding": more}
        case = Conv(f"random-{seed}-{len(found)}", (N, H, W, C_in * groups), kernel,
                    C_out * groups, options)  # fmt: skip
        _, kept = oracle.transposed_geometry(
            case.x_shape, (*kernel, C_out, C_in * groups), **options
        )
        if all(part.stop > part.start for part in kept[1:]):
            found.append(case)
    return found
