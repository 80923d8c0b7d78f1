"""One kernel variant is chosen at import: by the CPU, by PYCONV_ISA, or not at all, saying why.

Each choice is made in a fresh process, since it is made once. A lesser CPU is played by replacing
what `pyconv._cpu` says before pyconv is imported.
"""

import pytest

import pyconv
from pyconv import _dispatch

SAY = "import pyconv; print(pyconv.info()['isa'])"
DIGESTS = "from operations import digests; print(*digests(), sep='\\n')"

LESSER_CPU = """
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

folders = find_spec("pyconv").submodule_search_locations
spec = PathFinder.find_spec("pyconv._cpu", folders)
cpu = sys.modules["pyconv._cpu"] = module_from_spec(spec)
spec.loader.exec_module(cpu)
cpu.x86_64_level = lambda: {level}
"""


@pytest.mark.parametrize("isa", _dispatch.available_kernels())
def test_forced_choice(run_python, isa):
    done = run_python(SAY, PYCONV_ISA=isa)
    assert done.stdout == f"{isa}\n", done.stderr


@pytest.mark.parametrize("environment", [{}, {"PYCONV_ISA": "auto"}])
def test_the_best_is_the_default(run_python, environment):
    assert run_python(SAY, **environment).stdout == f"{_dispatch.available_kernels()[0]}\n"


@pytest.mark.parametrize("wanted", ["sse9", "V3", "x86-64-v3", "1"])
def test_nonsense_is_an_import_error(run_python, wanted):
    done = run_python(SAY, PYCONV_ISA=wanted)
    assert done.returncode == 1
    assert f"ImportError: PYCONV_ISA={wanted!r}: expected 'auto' or one of" in done.stderr
    assert "'baseline', 'v3', 'v4'" in done.stderr


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "baseline"), (3, "v3")])
def test_a_lesser_cpu_gets_what_it_can_run(run_python, level, isa):
    if isa not in _dispatch.available_kernels():
        pytest.skip(f"{isa} is not in this build, or not for this CPU")
    lesser = LESSER_CPU.format(level=level)
    assert run_python(lesser + SAY).stdout == f"{isa}\n"
    loaded = "print(sorted(m for m in sys.modules if m.startswith('pyconv._kernels')))"
    done = run_python("\n".join([lesser, SAY, loaded, "pyconv.relu([1.0])", loaded]))
    suffix = "" if isa == "baseline" else f"_{isa}"
    float32, float64 = f"pyconv._kernels{suffix}", f"pyconv._kernels_f64{suffix}"
    assert done.stdout.splitlines()[1:] == [str([float32]), str(sorted([float32, float64]))], (
        "no variant before the CPU was asked, and float64 when it is needed")


@pytest.mark.parametrize(
    ("level", "wanted", "why"),
    [
        (1, "v3", "this CPU runs at most x86-64-v1"),
        (3, "v4", "this CPU runs at most x86-64-v3"),
        (0, "v3", "this CPU runs no x86-64 code"),
    ],
)
def test_impossible_for_this_cpu(run_python, level, wanted, why):
    done = run_python(LESSER_CPU.format(level=level) + SAY, PYCONV_ISA=wanted)
    assert done.returncode == 1
    assert f"ImportError: PYCONV_ISA={wanted!r} cannot be used: {why}; usable here:" in done.stderr


def test_not_built_into_this_install(run_python):
    without = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name.endswith("_v3") else find_spec(name)
"""
    done = run_python(LESSER_CPU.format(level=3) + without + SAY, PYCONV_ISA="v3")
    assert done.returncode == 1
    assert "ImportError: PYCONV_ISA='v3' cannot be used: it was not built" in done.stderr
    assert "usable here: ['baseline']" in done.stderr


def test_v3_and_v4_give_the_same_bits(run_python):
    if not {"v3", "v4"} <= set(_dispatch.available_kernels()):
        pytest.skip("needs the variants v3 and v4")
    v3, v4 = (run_python(DIGESTS, PYCONV_ISA=isa) for isa in ("v3", "v4"))
    assert v3.returncode == v4.returncode == 0, v3.stderr + v4.stderr
    assert len(v3.stdout.splitlines()) > 30
    assert v3.stdout.splitlines() == v4.stdout.splitlines()


def test_use_switches_and_switches_back():
    before = pyconv.info()["isa"]
    for isa in _dispatch.available_kernels():
        with _dispatch.use(isa):
            assert pyconv.info()["isa"] == isa
        assert pyconv.info()["isa"] == before
    with pytest.raises(ValueError, match=r"`isa` is 'sse9'; usable here"), _dispatch.use("sse9"):
        pass
