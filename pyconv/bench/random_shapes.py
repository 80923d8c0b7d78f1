"""`pyconv bench layers --random`: shapes that nobody listed, drawn to find cliffs.

Uniform draws would be big and round; these favour what small networks have, and what falls
between a kernel's sizes: odd images, odd channel counts, few channels beside many.
"""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

from .shapes import ConvShape

BATCHES = (1, 3, 8, 16, 64, 256)
SIDES = (5, 60)
CHANNELS = (1, 3, 5, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 100, 128, 192, 256, 512)
WINDOWS = ((1, 1), (2, 2), (3, 3), (3, 3), (3, 3), (4, 4), (5, 5), (5, 5), (7, 7), (1, 7), (5, 3))
STRIDES = ((1, 1), (1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (2, 1))
DILATIONS = ((1, 1),) * 9 + ((2, 2),)
PADDINGS: tuple[str | int, ...] = ("same", "valid", 1)
FLOPS = (1e6, 3e9)  # below, calls are what takes the time; above, a measurement takes too long
LARGEST = 4_000_000  # values of an array


def draw(count: int, seed: int) -> list[ConvShape]:
    """Draw `count` convolutions, the same ones for the same seed."""
    source = random.Random(seed)
    shapes: list[ConvShape] = []
    while len(shapes) < count:
        shape = _draw(source)
        if (min(shape.y) > 0 and FLOPS[0] <= shape.flops <= FLOPS[1]
                and max(prod(shape.x), prod(shape.y)) <= LARGEST
                and all(before == after for before, after in shape.pads)):  # all peers have these
            shapes.append(shape)
    return shapes


def _draw(source: random.Random) -> ConvShape:
    channels, filters = source.choice(CHANNELS), source.choice(CHANNELS)
    divisors = [g for g in (2, 3, 4, 8) if channels % g == filters % g == 0]
    kind = source.random()
    if kind < 0.7 or channels == 1:
        groups = 1
    elif kind < 0.85 or not divisors:
        groups, filters = channels, channels * source.choice((1, 1, 1, 2))
    else:
        groups = source.choice(divisors)
    x = (source.choice(BATCHES), source.randint(*SIDES), source.randint(*SIDES), channels)
    window, stride = source.choice(WINDOWS), source.choice(STRIDES)
    padding, dilation = source.choice(PADDINGS), source.choice(DILATIONS)
    shape = ConvShape("", x, stride, padding, dilation, (*window, channels // groups, filters),
                      groups)
    return replace(shape, name=_name(shape))


def _name(shape: ConvShape) -> str:
    """All of a shape in a word: 8x28x28x64*3x3x64x128/2x2:same, with d and g where they matter."""
    x, w, stride, dilation = ("x".join(map(str, part)) for part in
                              (shape.x, shape.w, shape.stride, shape.dilation))
    return (f"{x}*{w}/{stride}:{shape.padding}"
            + f"d{dilation}" * (shape.dilation != (1, 1)) + f"g{shape.groups}" * (shape.groups > 1))
