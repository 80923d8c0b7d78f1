"""One layer in one direction: its input values, and the call of pyconv that computes it.

Values are small integers, so that every sum is exact in float32 whatever its order, and come from
a formula, so that a peer in another process draws the same ones without being sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from .. import functional
from ..functional._arrays import empty
from .peer_protocol import HASH, integers
from .shapes import ConvShape, PoolShape


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Integers from -4 to 4 as float32, in row-major order of `shape`.

    In memory as pyconv's results, and PyTorch's, are: large arrays begin with a line of the cache.
    """
    index = np.arange(np.prod(shape, dtype=np.int64)) + seed * 1000003
    array = empty(shape, np.float32, "bench")
    array[...] = integers(index).reshape(shape)
    return array


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """`count` elements at the places where a peer's process takes its sample."""
    return array.ravel()[[i * HASH % array.size for i in range(count)]]


@dataclass(frozen=True)
class Problem:
    """A shape of the table in one of its directions."""

    shape: ConvShape | PoolShape
    direction: str

    def __str__(self) -> str:
        return f"{self.shape.name} {self.direction}"

    @cached_property
    def x(self) -> np.ndarray:
        return values(self.shape.x, 1)

    @cached_property
    def w(self) -> np.ndarray:
        assert isinstance(self.shape, ConvShape)
        return values(self.shape.w, 2)

    @cached_property
    def b(self) -> np.ndarray:
        return values((self.shape.channels_out,), 3)

    @cached_property
    def dy(self) -> np.ndarray:
        return values(self.shape.y, 4)

    @property
    def algorithm(self) -> str | None:
        """What pyconv takes for a convolution: "winograd", "depthwise" or "direct"; None for a pool."""
        shape = self.shape
        if not isinstance(shape, ConvShape):
            return None
        direction = {"forward": "y"}.get(self.direction, self.direction)
        return functional.conv2d_algorithm(
            shape.x, shape.w, stride=shape.stride, padding=shape.padding, dilation=shape.dilation,
            groups=shape.groups, direction=direction)

    def call(self, threads: int) -> Callable[[], Any]:
        """The call that is timed: the public function, as a user would call it."""
        shape = self.shape
        geometry: dict[str, Any] = {"stride": shape.stride, "padding": shape.padding,
                                    "num_threads": threads}
        if isinstance(shape, ConvShape):
            geometry |= {"dilation": shape.dilation, "groups": shape.groups}
            if self.direction == "forward":
                return partial(functional.conv2d, self.x, self.w, self.b, **geometry)
            need = ("x",) if self.direction == "dx" else ("w", "b")
            return partial(functional.conv2d_backward, self.dy, self.x, self.w, need=need,
                           **geometry)
        if self.direction == "avg_backward":
            return partial(functional.avg_pool2d_backward, self.dy, shape.x, shape.window,
                           **geometry)
        if self.direction == "avg_forward":
            return partial(functional.avg_pool2d, self.x, shape.window, **geometry)
        forward = partial(functional.max_pool2d, self.x, shape.window, return_indices=True,
                          **geometry)
        if self.direction == "max_forward":
            return forward
        _, indices = forward()
        return partial(functional.max_pool2d_backward, self.dy, indices, shape.x,
                       num_threads=threads)

    def named(self, result: Any) -> dict[str, np.ndarray]:
        """The arrays of a result by their names; gradients that were not asked for left out."""
        names = {"forward": ("y",), "max_forward": ("y", "indices"), "avg_forward": ("y",),
                 "dx": ("dx", "dw", "db"), "dw": ("dx", "dw", "db"), "max_backward": ("dx",),
                 "avg_backward": ("dx",)}[self.direction]
        arrays = result if isinstance(result, tuple) else (result,)
        return {name: array for name, array in zip(names, arrays, strict=True)
                if array is not None}


def problems(shapes: Iterable[ConvShape | PoolShape], directions: Container[str]
             ) -> Iterator[Problem]:
    """Each shape in each of `directions` that it has."""
    for shape in shapes:
        for direction in shape.directions:
            if direction in directions:
                yield Problem(shape, direction)
