"""Problems and their plans: what a call needs again when the same shapes come again.

A problem is a geometry. For each kernel module it keeps the plans (with their workspaces) that no call
is using: a call takes one out, or makes one, and puts it back. So calls from several threads never
share a workspace, and the same shape needs no new memory.
"""

from functools import lru_cache
from math import prod
from types import ModuleType
from typing import Any

from ..geometry import conv_geometry, conv_transpose_geometry, pool_geometry

_PLANS = 64  # problems whose plans are kept
_direct = False


def set_algorithm(name: str) -> None:
    """Choose how convolutions are computed, for the whole process.

    Parameters
    ----------
    name : {"auto", "direct"}
        "auto" takes Winograd's algorithm where it is faster, for float32: F(4x4, 3x3), or for a few
        outputs F(2x2, 3x3), for 3x3 filters at stride 1 and 16 channels or more, and transforms along
        the rows alone for most others. Its error stays within 1e-4 of the output's rms. "direct" sums
        products in their order, everywhere.
    """
    global _direct
    if name not in ("auto", "direct"):
        raise ValueError(f'set_algorithm: `name` is {name!r}; expected "auto" or "direct"')
    _direct = name == "direct"


class Problem:
    """Geometries, and for each kernel module the plans that no call is using."""

    __slots__ = ("free", "geometry")

    def __init__(self, geometry: Any) -> None:
        self.geometry = geometry
        self.free: dict[tuple[ModuleType, bool], list[Any]] = {}

    def borrow(self, module: ModuleType) -> tuple[Any, list[Any]]:
        """A plan for one call, and the list to give it back to."""
        key = module, _direct
        try:
            free = self.free[key]
        except KeyError:
            free = self.free.setdefault(key, [])
        try:
            return free.pop(), free
        except IndexError:
            return self.new_plan(module), free

    def new_plan(self, module: ModuleType) -> Any:
        return module.Workspace()


class _ConvProblem(Problem):
    __slots__ = ()

    def new_plan(self, module: ModuleType) -> Any:
        g = self.geometry
        x, w, stride = g.x_shape, g.w_shape, g.stride
        if self.dense():
            x, w, stride = (x[0], 1, 1, prod(x[1:])), (1, 1, prod(w[:3]), w[3]), (1, 1)
        return module.ConvPlan(x, w, g.y_shape, stride, g.dilation, (g.pad_top, g.pad_left), g.groups,
                               _direct)

    def dense(self) -> bool:
        """Whether the filter is as large as the image: their numbers are the channels of one pixel."""
        g = self.geometry
        return bool(g.w_shape[:2] == g.x_shape[1:3] and g.y_shape[1:3] == g.dilation == (1, 1)
                    and g.pad_top == g.pad_left == 0 and g.groups == 1)


class _TransposedProblem(_ConvProblem):
    __slots__ = ()

    def dense(self) -> bool:
        return False  # here the image has a bias for each channel


class _ConvPoolProblem(Problem):
    __slots__ = ("pool",)

    def __init__(self, geometry: Any, pool: Any) -> None:
        super().__init__(geometry)
        self.pool = pool

    def new_plan(self, module: ModuleType) -> Any:
        g, pool = self.geometry, self.pool
        return module.ConvPoolPlan(
            g.x_shape, g.w_shape, g.y_shape, pool.y_shape, g.stride, g.dilation,
            (g.pad_top, g.pad_left), g.groups, pool.window, pool.stride, pool.pads, _direct)


@lru_cache(maxsize=_PLANS, typed=True)
def cached_conv(shapes: Any, types: Any, *arguments: Any) -> Problem:
    return _ConvProblem(conv_geometry(shapes[0], shapes[1], *arguments))


@lru_cache(maxsize=_PLANS, typed=True)
def cached_conv_transpose(shapes: Any, types: Any, *arguments: Any) -> Problem:
    return _TransposedProblem(conv_transpose_geometry(shapes[0], shapes[1], *arguments))


@lru_cache(maxsize=_PLANS, typed=True)
def cached_conv_pool(
    shapes: Any, types: Any, stride: Any, padding: Any, dilation: Any, groups: Any, window: Any,
    pool_stride: Any, pool_padding: Any,
) -> Problem:
    geometry = conv_geometry(shapes[0], shapes[1], stride, padding, dilation, groups)
    return _ConvPoolProblem(geometry,
                            pool_geometry(geometry.y_shape, window, pool_stride, pool_padding))


@lru_cache(maxsize=_PLANS, typed=True)
def cached_pool(x_shape: Any, types: Any, *arguments: Any) -> Problem:
    return Problem(pool_geometry(x_shape, *arguments))


class _BatchNormProblem(Problem):
    __slots__ = ()

    def new_plan(self, module: ModuleType) -> Any:
        return module.BatchNormPlan(*self.geometry)


@lru_cache(maxsize=_PLANS)
def cached_batch_norm(pixels: int, channels: int) -> Problem:
    return _BatchNormProblem((pixels, channels))


_PLAIN = {int, str, type(None), bool}


def _frozen(value: Any) -> Any:
    """A hashable stand-in that differs where a type does: (1, 1) and (1.0, True) are equal."""
    if isinstance(value, (list, tuple)):
        return type(value), *map(_frozen, value)
    return type(value), value


def problem_of(cached: Any, where: str, x_shape: Any, *arguments: Any) -> Problem:
    """The problem of these arguments; errors get the operation's name in front."""
    try:
        if _PLAIN.issuperset(map(type, arguments)):
            return cached(x_shape, None, *arguments)
        try:
            return _lists_aside(cached, x_shape, arguments)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return cached.__wrapped__(x_shape, None, *arguments)
    except (TypeError, ValueError, MemoryError) as error:
        raise type(error)(f"{where}: {error}") from None


def _lists_aside(cached: Any, x_shape: Any, arguments: tuple[Any, ...]) -> Problem:
    tuples = (_as_tuple(value) for value in arguments)
    return cached(x_shape, tuple(map(_frozen, arguments)), *tuples)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value
