"""Every public name has a docstring, and the examples in docstrings are true."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import pyconv

PACKAGE = Path(pyconv.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
PUBLIC = ["pyconv", "pyconv.course", *(f"pyconv.{path.stem}" for path in PACKAGE.glob("[!_]*.py"))]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_are_true(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names_have_docstrings(module):
    home = importlib.import_module(module)
    names = getattr(home, "__all__", None) or [
        name for name, value in vars(home).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]
    bare = []
    for name in names:
        value = getattr(home, name)
        if callable(value) and not inspect.getdoc(value):
            bare.append(name)
        if inspect.isclass(value):
            bare += [
                f"{name}.{method}" for method, function in vars(value).items()
                if not method.startswith("_") and callable(function) and not inspect.getdoc(function)
            ]
    assert home.__doc__ and bare == []
