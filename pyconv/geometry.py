"""From stride, padding, dilation and groups to sizes and pads, and the errors on the way.

All index arithmetic of windows is here; kernels get pads as four numbers and never see "same".

Along one axis, a kernel of `k` taps with dilation `d` spans (k - 1) d + 1 pixels, and an image of `n`
pixels with `before` + `after` of padding has room for
floor((n + before + after - span) / stride) + 1 windows.
"""

from operator import index
from typing import Any

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))

_LARGEST = 2**31 - 1  # of any size, so that products of three still fit in 64 bits
_NAMED = ("valid", "same", "same_lower")


class Geometry:
    """Windows on images: shapes (N, H, W, C), and steps and pads in pixels."""

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], stride: Pair,
                 dilation: Pair, pads: Pads) -> None:
        self.x_shape, self.y_shape = x_shape, y_shape
        self.stride, self.dilation, self.pads = stride, dilation, pads

    out_h = property(lambda self: self.y_shape[1])
    out_w = property(lambda self: self.y_shape[2])
    pad_top = property(lambda self: self.pads[0][0])
    pad_bottom = property(lambda self: self.pads[0][1])
    pad_left = property(lambda self: self.pads[1][0])
    pad_right = property(lambda self: self.pads[1][1])


class ConvGeometry(Geometry):
    """A convolution whose arguments fit together; see `conv_geometry`."""

    def __init__(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], y_shape: tuple[int, ...],
                 stride: Pair, dilation: Pair, pads: Pads, groups: int) -> None:
        super().__init__(x_shape, y_shape, stride, dilation, pads)
        self.w_shape, self.groups = w_shape, groups


class PoolGeometry(Geometry):
    """A pooling whose arguments fit together; see `pool_geometry`."""

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], window: Pair,
                 stride: Pair, dilation: Pair, pads: Pads) -> None:
        super().__init__(x_shape, y_shape, stride, dilation, pads)
        self.window = window


def integer(value: Any, name: str, *, least: int, most: int = _LARGEST) -> int:
    """`value` as an int from `least` to `most`, or an error that names it `name`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` is {value!r} ({type(value).__name__}); expected an integer"
        ) from None
    if not least <= number <= most:
        raise ValueError(f"`{name}` is {number}; expected {least} to {most}")
    return number


def pair(value: Any, name: str, *, least: int = 1) -> Pair:
    """An int, or a pair (h, w) of ints, as a pair.

    Raises
    ------
    TypeError, ValueError
        Naming `name`, for anything else, or a number below `least`.

    Examples
    --------
    >>> pair(2, "stride"), pair((1, 3), "stride")
    ((2, 2), (1, 3))
    """
    if not isinstance(value, (tuple, list)):
        number = integer(value, name, least=least)
        return number, number
    if len(value) != 2:
        raise ValueError(f"`{name}` is {value!r}; expected an int or a pair (h, w)")
    return integer(value[0], name, least=least), integer(value[1], name, least=least)


def span(taps: int, dilation: int) -> int:
    """Pixels from a kernel's first tap to its last, both included."""
    return (taps - 1) * dilation + 1


def resolve_pads(padding: Any, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
    """Any form of `padding` as ((top, bottom), (left, right)).

    "same" is TensorFlow's rule: out = ceil(n / s), total = max((out - 1) s + span - n, 0), with the
    smaller half before the image, and with "same_lower" the larger half.
    """
    if isinstance(padding, str):
        if padding not in _NAMED:
            raise ValueError(
                f'`padding` is {padding!r}; expected "valid", "same", "same_lower", an int, '
                "(h, w), or ((top, bottom), (left, right))"
            )
        if padding == "valid":
            return (0, 0), (0, 0)
        pads = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + span(k, d) - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if padding == "same" else (large, small))
        return pads[0], pads[1]
    if isinstance(padding, (tuple, list)) and any(
        isinstance(side, (tuple, list)) for side in padding
    ):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) for side in padding):
            raise ValueError(f"`padding` is {padding!r}; expected ((top, bottom), (left, right))")
        return pair(padding[0], "padding", least=0), pair(padding[1], "padding", least=0)
    h, w = pair(padding, "padding", least=0)
    return (h, h), (w, w)


def conv_geometry(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, groups: Any = 1,
) -> ConvGeometry:
    """Sizes and pads of a convolution of NHWC with HWIO.

    Parameters
    ----------
    x_shape, w_shape : tuple
        (N, H, W, C_in) and (KH, KW, C_in // groups, C_out).
    stride, dilation : int or (h, w)
    padding : str, int, (h, w), or ((top, bottom), (left, right))
    groups : int

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together; the message says which, and what would.
    """
    if len(x_shape) != 4:
        raise ValueError(
            f"`x` has {len(x_shape)} dimensions (shape {x_shape}); expected 4: (N, H, W, C_in). "
            "For a single image use x[None]"
        )
    if len(w_shape) != 4:
        raise ValueError(
            f"`w` has {len(w_shape)} dimensions (shape {w_shape}); expected 4: "
            "(KH, KW, C_in // groups, C_out)"
        )
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    groups = integer(groups, "groups", least=1)
    (N, H, W, C_in), (KH, KW, C_group, C_out) = x_shape, w_shape
    _positive("x", x_shape, ("H", "W", "C_in"))
    _positive("w", w_shape, ("KH", "KW", "C_in // groups", "C_out"))
    if C_in % groups or C_out % groups:
        raise ValueError(
            f"`groups` is {groups}, which does not divide both the {C_in} channels of `x` (shape "
            f"{x_shape}, NHWC) and the {C_out} of `w` (shape {w_shape}, HWIO)"
        )
    if C_in != C_group * groups:
        hint = ""
        if x_shape[1] == C_group * groups:
            hint = ". Is `x` in NCHW order? Use np.moveaxis(x, 1, -1)"
        raise ValueError(
            f"`x` has {C_in} channels (shape {x_shape}, NHWC) but `w` expects {C_group * groups} "
            f"(shape {w_shape}, HWIO, groups={groups}){hint}"
        )
    pads = resolve_pads(padding, (H, W), (KH, KW), stride, dilation)
    OH, OW = (
        (size + before + after - span(k, d)) // s + 1
        for size, (before, after), k, s, d in zip(
            (H, W), pads, (KH, KW), stride, dilation, strict=True
        )
    )
    if OH < 1 or OW < 1:
        raise ValueError(
            f"kernel {KH}x{KW} (`w` of shape {w_shape}) with `dilation` {dilation} spans "
            f"{span(KH, dilation[0])}x{span(KW, dilation[1])}, more than the padded input "
            f"{H + sum(pads[0])}x{W + sum(pads[1])} (`x` of shape {x_shape}, `padding` "
            f'{padding!r}); the output would be empty. Pad more, or use padding="same"'
        )
    return ConvGeometry(
        x_shape, w_shape, _checked_size((N, OH, OW, C_out)), stride, dilation, pads, groups
    )


def conv_transpose_geometry(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any = 1, padding: Any = "valid",
    output_padding: Any = 0, dilation: Any = 1, groups: Any = 1,
) -> ConvGeometry:
    """The convolution whose input gradient a transposed convolution is.

    It takes the transposed convolution's output to its input: of what is returned, `y_shape` is the
    given `x_shape`, `x_shape` is the shape of the transposed convolution's output, and `pads` are
    what is cropped from it, negative where `output_padding` adds more.

    Parameters
    ----------
    x_shape, w_shape : tuple
        (N, H, W, C_in) and (KH, KW, C_out // groups, C_in).
    stride, dilation : int or (h, w)
    padding : str, int, (h, w), or ((top, bottom), (left, right))
        What is cropped from (H - 1) stride + span + output_padding rows: nothing by "valid"; by
        "same" and "same_lower", what is more than H stride.
    output_padding : int or (h, w)
        Rows and columns added at the bottom and at the right.
    groups : int

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together; the message says which, and what would.
    """
    if len(x_shape) != 4:
        raise ValueError(
            f"`x` has {len(x_shape)} dimensions (shape {x_shape}); expected 4: (N, H, W, C_in). "
            "For a single image use x[None]"
        )
    if len(w_shape) != 4:
        raise ValueError(
            f"`w` has {len(w_shape)} dimensions (shape {w_shape}); expected 4: "
            "(KH, KW, C_out // groups, C_in)"
        )
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    more = pair(output_padding, "output_padding", least=0)
    groups = integer(groups, "groups", least=1)
    (N, H, W, C_in), (KH, KW, C_group, C_filter) = x_shape, w_shape
    _positive("x", x_shape, ("H", "W", "C_in"))
    _positive("w", w_shape, ("KH", "KW", "C_out // groups", "C_in"))
    if C_in != C_filter:
        hint = ""
        if H == C_filter:
            hint = ". Is `x` in NCHW order? Use np.moveaxis(x, 1, -1)"
        elif C_in == C_group * groups:
            hint = ". Are its last axes the other way around? Use np.swapaxes(w, 2, 3)"
        raise ValueError(
            f"`x` has {C_in} channels (shape {x_shape}, NHWC) but `w` expects {C_filter} "
            f"(shape {w_shape}, (KH, KW, C_out // groups, C_in)){hint}"
        )
    if C_in % groups:
        raise ValueError(
            f"`groups` is {groups}, which does not divide the {C_in} channels of `x` (shape "
            f"{x_shape}, NHWC)"
        )
    kernel = KH, KW
    full = [(n - 1) * s + span(k, d) + m
            for n, k, s, d, m in zip((H, W), kernel, stride, dilation, more, strict=True)]
    if isinstance(padding, str) and padding in ("same", "same_lower"):
        pads = []
        for n, s, size in zip((H, W), stride, full, strict=True):
            small = max(size - n * s, 0) // 2
            large = size - n * s - small
            pads.append((small, large) if padding == "same" or large < 0 else (large, small))
    else:
        pads = list(resolve_pads(padding, (H, W), kernel, stride, dilation))
    OH, OW = (size - sum(crop) for size, crop in zip(full, pads, strict=True))
    if OH < 1 or OW < 1:
        raise ValueError(
            f"`padding` {padding!r} crops all of the {full[0]}x{full[1]} pixels that `x` of shape "
            f"{x_shape} and `w` of shape {w_shape} give; the output would be empty. Use less padding"
        )
    return ConvGeometry(
        _checked_size((N, OH, OW, C_group * groups)), w_shape, x_shape, stride, dilation,
        (pads[0], pads[1]), groups
    )


def pool_geometry(
    x_shape: tuple[int, ...], window: Any, stride: Any = None, padding: Any = "valid",
    dilation: Any = 1, ceil_mode: bool = False,
) -> PoolGeometry:
    """Sizes and pads of a pooling of NHWC.

    Parameters
    ----------
    x_shape : tuple
        (N, H, W, C).
    window : int or (h, w)
    stride : None, int or (h, w)
        None means `window`.
    padding, dilation
        As in `conv_geometry`.
    ceil_mode : bool, default False
        Round the number of windows up; the last one may not start in the padding behind the image.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together, or a window would hold nothing but padding.
    """
    if len(x_shape) != 4:
        raise ValueError(
            f"`x` has {len(x_shape)} dimensions (shape {x_shape}); expected 4: (N, H, W, C). "
            "For a single image use x[None]"
        )
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"`ceil_mode` is {ceil_mode!r}; expected True or False")
    N, H, W, C = x_shape
    _positive("x", x_shape, ("H", "W", "C"))
    window, dilation = pair(window, "window"), pair(dilation, "dilation")
    stride = window if stride is None else pair(stride, "stride")
    pads = resolve_pads(padding, (H, W), window, stride, dilation)
    sizes = []
    for size, (before, after), k, s, d in zip((H, W), pads, window, stride, dilation, strict=True):
        room = size + before + after - span(k, d)
        count = room // s + 1
        if ceil_mode:  # large padding behind the image may have room for several windows
            count = min(-(-room // s), (size + before - 1) // s) + 1
        if count < 1 or (room < 0 and not ceil_mode):
            raise ValueError(
                f"`window` {window} with `dilation` {dilation} spans {span(window[0], dilation[0])}x"
                f"{span(window[1], dilation[1])}, more than the padded input "
                f"{H + sum(pads[0])}x{W + sum(pads[1])} (`x` of shape {x_shape}, `padding` "
                f"{padding!r}); the output would be empty. Use a smaller window or more padding"
            )
        # Taps closer than the image is wide cannot straddle it: only the outermost windows miss it.
        edge = range(min(count, -(-before // s))) if d > size else ()
        for out in {0, *edge, count - 1}:
            start = out * s - before
            first = start if start >= 0 else start % d
            if first >= size or first > start + (k - 1) * d:
                raise ValueError(
                    f"`window` {window} with `dilation` {dilation}, `stride` {stride} and `padding` "
                    f"{padding!r} puts output {out} wholly into the padding of `x` (shape "
                    f"{x_shape}). Use less padding"
                )
        sizes.append(count)
    return PoolGeometry(
        x_shape, _checked_size((N, *sizes, C)), window, stride, dilation, pads
    )


def _positive(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    for size, axis in zip(shape[-len(axes):], axes, strict=True):
        if size == 0:
            raise ValueError(f"`{name}` has size 0 along {axis} (shape {shape}); expected 1 or more")


def _checked_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape`, unless it is beyond what an index of the kernels can count."""
    elements = 1
    for size in shape:
        elements *= size
    if elements * 8 >= 2**63:
        raise MemoryError(f"an output of shape {shape} is larger than any memory")
    return shape
