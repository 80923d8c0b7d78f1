"""The table of shapes: `shapes.toml` read into objects that know their sizes, pads and work.

The sizes are worked out here and not asked of `pyconv.geometry`: the benchmarks' reference and
the peer use them, and a check is worth little when it shares its arithmetic with what it checks.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

TABLE = Path(__file__).with_name("shapes.toml")
FLOAT_BYTES = INDEX_BYTES = 4

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What convolution and pooling have in common: an image, a window that moves, and pads."""

    name: str
    x: tuple[int, int, int, int]
    stride: Pair
    padding: str | int
    dilation: Pair

    kind: ClassVar[str]
    directions: ClassVar[tuple[str, ...]]

    @property
    def window(self) -> Pair:
        """(KH, KW)."""
        raise NotImplementedError

    @property
    def channels_out(self) -> int:
        raise NotImplementedError

    @property
    def out(self) -> Pair:
        """(OH, OW)."""
        return self._axis(0)[0], self._axis(1)[0]

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """((top, bottom), (left, right)): zeros around the image."""
        return self._axis(0)[1], self._axis(1)[1]

    @property
    def y(self) -> tuple[int, int, int, int]:
        """(N, OH, OW, C_out)."""
        return (self.x[0], *self.out, self.channels_out)

    def _axis(self, axis: int) -> tuple[int, Pair]:
        """Output size and pads along height (axis 0) or width (axis 1)."""
        n, stride = self.x[1 + axis], self.stride[axis]
        span = self.dilation[axis] * (self.window[axis] - 1) + 1
        if self.padding == "same":
            total = max((-(-n // stride) - 1) * stride + span - n, 0)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if self.padding == "valid" else int(self.padding)
        return (n + before + after - span) // stride + 1, (before, after)


@dataclass(frozen=True)
class ConvShape(Shape):
    """One convolution layer."""

    w: tuple[int, int, int, int]
    groups: int

    kind = "conv"
    directions = ("forward", "dx", "dw")

    @property
    def window(self) -> Pair:
        return self.w[:2]

    @property
    def channels_out(self) -> int:
        return self.w[3]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct sum, equal in every direction."""
        return 2 * math.prod(self.y) * math.prod(self.w[:3])

    @property
    def is_wide_3x3(self) -> bool:
        """3x3, stride 1, at least 32 channels on both sides: where Winograd pays most."""
        return (self.window == (3, 3) and self.stride == self.dilation == (1, 1)
                and self.groups == 1 and min(self.w[2:]) >= 32)


@dataclass(frozen=True)
class PoolShape(Shape):
    """One pooling layer, timed as maximum and as average."""

    pool: Pair

    kind = "pool"
    directions = ("max_forward", "max_backward", "avg_forward", "avg_backward")

    @property
    def window(self) -> Pair:
        return self.pool

    @property
    def channels_out(self) -> int:
        return self.x[3]

    def bytes_moved(self, direction: str) -> int:
        """Bytes that must cross the memory bus at least: each operand read or written once."""
        index_bytes = INDEX_BYTES if direction.startswith("max") else 0
        return FLOAT_BYTES * math.prod(self.x) + (FLOAT_BYTES + index_bytes) * math.prod(self.y)


def load(path: Path | str = TABLE) -> dict[str, list[ConvShape | PoolShape]]:
    """Read a table of shapes.

    Parameters
    ----------
    path : path, default the table that is part of pyconv

    Returns
    -------
    dict of section name -> shapes in the order of the file, convolutions first

    Raises
    ------
    ValueError
        If the file is not TOML, or an entry lacks a key, has an unknown one, or gives an empty
        output; the message names the file and the entry.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    table: dict[str, list[ConvShape | PoolShape]] = {}
    for section, kinds in document.items():
        table[section] = []
        for kind, make in (("conv", _conv), ("pool", _pool)):
            for name, entry in kinds.get(kind, {}).items():
                try:
                    shape = make(name, **entry)
                    if min(shape.y) < 1:
                        raise ValueError(f"the output {shape.y} would be empty")
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}: [{section}.{kind}] {name}: {error}") from error
                table[section].append(shape)
    return table


def as_peer_problem(shape: ConvShape | PoolShape) -> dict[str, Any]:
    """What a peer's process needs to know of a shape, as plain JSON values."""
    values = {field.name: getattr(shape, field.name) for field in fields(shape)}
    return values | {"kind": shape.kind, "window": shape.window, "pads": shape.pads,
                     "y": shape.y}


def _conv(name: str, *, x: list[int], w: list[int], stride: int | list[int] = 1,
          padding: str | int = "valid", dilation: int | list[int] = 1,
          groups: int = 1) -> ConvShape:
    n, height, width, channels = x
    kh, kw, fan, channels_out = w
    if channels != fan * groups or channels_out % groups:
        raise ValueError(f"x {x} and w {w} do not fit with groups = {groups}")
    return ConvShape(name, (n, height, width, channels), _pair(stride), padding, _pair(dilation),
                     (kh, kw, fan, channels_out), groups)


def _pool(name: str, *, x: list[int], window: int | list[int],
          stride: int | list[int] | None = None, padding: str | int = "valid") -> PoolShape:
    n, height, width, channels = x
    return PoolShape(name, (n, height, width, channels),
                     _pair(window if stride is None else stride), padding, (1, 1), _pair(window))


def _pair(value: int | list[int]) -> Pair:
    h, w = (value, value) if isinstance(value, int) else value
    return h, w
