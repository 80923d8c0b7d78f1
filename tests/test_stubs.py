"""The typed signatures of the compiled modules, `*.pyi`, name what these have."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import pyconv
from pyconv import _dispatch

MODULES = {
    "_blocks": ["_blocks"],
    "_cpu": ["_cpu"],
    "_team": ["_team"],
    "_kernels": [
        module.__name__.removeprefix("pyconv.")
        for isa in _dispatch.available_kernels()
        for module in _dispatch.Kernels(isa).modules.values()
    ],
}


def stub(name):
    """From each public name in the stub, methods as "Class.method", to its arguments or None."""
    found = {}

    def collect(body, prefix=""):
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = None
                collect(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                is_property = any(ast.unparse(d) == "property" for d in node.decorator_list)
                names = [a.arg for a in node.args.args if a.arg != "self"]
                found[prefix + node.name] = None if is_property else names

    collect(ast.parse(Path(pyconv.__file__).with_name(f"{name}.pyi").read_text()).body)
    return found


def built(module):
    """The same of a compiled module, which puts signatures into docstrings."""
    found = {}

    def collect(owner, prefix=""):
        for name, value in vars(owner).items():
            if name.startswith("_"):
                continue
            found[prefix + name] = arguments(value)
            if isinstance(value, type):
                if value.__doc__ and value.__doc__.startswith(f"{name}("):
                    found[f"{name}.__init__"] = arguments(value)
                found[name] = None
                collect(value, f"{name}.")

    collect(module)
    return found


def arguments(value):
    """Names of the arguments in a docstring's first line, `f(const real[:, ::1] x, int n=2)`."""
    name = getattr(value, "__name__", "")
    text = re.match(rf"(?:\w+\.)?{name}\((.*)\)", value.__doc__ or "")
    if text is None:
        return None
    flat = re.sub(r"\[[^]]*\]", "", text[1])
    names = [part.split("=")[0].split()[-1] for part in flat.split(",") if part.strip()]
    return [name for name in names if name != "self"]


@pytest.mark.parametrize(("name", "module"), [(n, m) for n in MODULES for m in MODULES[n]])
def test_stub_and_module_agree(name, module):
    assert built(import_module(f"pyconv.{module}")) == stub(name)
