"""Checks of arguments, shared by layers, optimizers, callbacks and models.

An unknown name, be it a keyword or a string such as an optimizer's, is answered with the nearest
known one.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Choice = TypeVar("Choice")


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """The end of an error message: the known name nearest to `name`, then all known ones.

    >>> did_you_mean("stride", ["strides", "padding"])
    "did you mean 'strides'? (known: 'strides', 'padding')"
    """
    import difflib  # here: a good call does not wait for it

    by_lower_case = {str(value).lower(): value for value in known}
    if not by_lower_case:
        return "there is none to give"
    best = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.0)[0]
    listed = ", ".join(map(repr, by_lower_case.values()))
    return f"did you mean {by_lower_case[best]!r}? (known: {listed})"


def choose(value: Any, name: str, known: Iterable[Choice]) -> Choice:
    """`value` if it is one of `known`, else a ValueError that names the nearest."""
    known = list(known)
    if isinstance(value, str | None) and value in known:
        return known[known.index(value)]
    raise ValueError(f"`{name}` is {value!r}, which is unknown; {did_you_mean(value, known)}")


def real(value: Any, name: str, *, least: float = 0.0, below: float = math.inf) -> float:
    """`value` as a float with `least` <= value < `below`; NaN is refused."""
    expected = f"expected a number in [{least:g}, {below:g})"
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` is {value!r}; {expected}")
    if not least <= float(value) < below:
        raise ValueError(f"`{name}` is {value!r}; {expected}")
    return float(value)


def named_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: a keyword that `function` does not know is a TypeError that names the nearest."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function
    known = {p.name: None for p in parameters if p.name != "self"}  # a dict keeps the order
    where = function.__qualname__.removesuffix(".__init__").split(".")[-1]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{where} has no argument {name!r}; {did_you_mean(name, known)}")
        return function(*args, **kwargs)

    return checked


class Configurable:
    """Base of what is made from keyword arguments and can be made again from them.

    A subclass keeps each argument of its constructor as an attribute of the same name.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = named_keywords(vars(cls)["__init__"])  # type: ignore[method-assign]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments by name; ``type(self)(**config)`` makes a new twin."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
