"""Pick, once at import, the fastest kernels that this CPU can run.

There is one compiled module per instruction set and dtype, all from the same source. A variant's
own start-up code already uses the wide registers, so the CPU is asked before a variant is imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

try:
    from ._cpu import x86_64_level
except ModuleNotFoundError as error:
    raise ImportError(
        f"pyconv's compiled modules are not beside {__file__}. If this is the source tree, it "
        "hides the installed package: change to another folder, or build in place with "
        "`pip install -e .`"
    ) from error

_LEVEL = {"v4": 4, "v3": 3, "baseline": 0}  # best first
_SUFFIX = {"v4": "_v4", "v3": "_v3", "baseline": ""}


class _Modules(dict[str, ModuleType]):
    """From dtype character to a variant's compiled module; that of float64 when it is first needed."""

    def __init__(self, suffix: str) -> None:
        # libgomp comes with this one: see _wait.
        super().__init__(f=import_module(f"._kernels{suffix}", __package__))
        self.suffix = suffix

    def __missing__(self, dtype: str) -> ModuleType:
        if dtype != "d":
            raise KeyError(dtype)
        self[dtype] = import_module(f"._kernels_f64{self.suffix}", __package__)
        return self[dtype]


class Kernels:
    """The kernel modules of one instruction set, and the plans made with them.

    Attributes
    ----------
    isa : {"baseline", "v3", "v4"}
    modules : dict
        From dtype character ("f": float32, "d": float64) to the compiled module.
    plans : dict
        From problem to the plans that are free; filled by `functional`.
    """

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.modules: dict[str, ModuleType] = _Modules(_SUFFIX[isa])
        self.plans: dict[Any, list[Any]] = {}


def available_kernels() -> list[str]:
    """Names of the variants that are in this build and that this CPU runs, best first."""
    level = x86_64_level()
    return [
        isa for isa, needed in _LEVEL.items()
        if level >= needed and find_spec(f"{__package__}._kernels{_SUFFIX[isa]}") is not None
    ]


def _choose() -> str:
    wanted = os.environ.get("PYCONV_ISA") or "auto"
    usable = available_kernels()
    if wanted == "auto":
        return usable[0]
    if wanted not in _LEVEL:
        raise ImportError(f"PYCONV_ISA={wanted!r}: expected 'auto' or one of {sorted(_LEVEL)}")
    if wanted not in usable:
        level = x86_64_level()
        if level < _LEVEL[wanted]:
            runs = f"at most x86-64-v{level}" if level else "no x86-64 code"
            why = f"this CPU runs {runs}"
        else:
            why = "it was not built into this install (see PYCONV_BUILD_ISA in setup.py)"
        raise ImportError(f"PYCONV_ISA={wanted!r} cannot be used: {why}; usable here: {usable}")
    return wanted


active = Kernels(_choose())


@contextmanager
def use(isa: str) -> Iterator[None]:
    """Run the body with the kernels of another instruction set (for tests and benchmarks)."""
    global active
    if isa not in available_kernels():
        raise ValueError(f"`isa` is {isa!r}; usable here: {available_kernels()}")
    before = active
    active = Kernels(isa)
    try:
        yield
    finally:
        active = before
