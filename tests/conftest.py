"""What every test can ask for: a dtype, a kernel variant, random numbers, a fresh Python, the command.

The suite runs against the pyconv that Python finds: an editable install, or an installed wheel.
"""

import contextlib
import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the clone first on sys.path, where ./pyconv, if it was never built in
# place, would hide the installed package and fail to import for want of its kernels.
if not any(path.suffix in (".so", ".pyd") for path in (ROOT / "pyconv").glob("_kernels*")):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

import cases  # noqa: E402
import data_folders  # noqa: E402

import pyconv  # noqa: E402
from pyconv import _dispatch, cli, data, training  # noqa: E402

_STDERR = pytest.StashKey()


def pytest_configure(config):
    # Output is not captured yet: this is where `alarm` can still be heard.
    config.stash[_STDERR] = os.fdopen(os.dup(2), "w")


def pytest_report_header():
    return (
        f"pyconv {pyconv.__version__} from {Path(pyconv.__file__).parent}: "
        f"kernels {', '.join(_dispatch.available_kernels())}; {pyconv.get_num_threads()} threads; "
        f"PYCONV_TEST_SEED={cases.SEED}"
    )


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=_dispatch.available_kernels())
def isa(request):
    """Run the test once with each variant of the kernels that this CPU can run."""
    with _dispatch.use(request.param):
        yield request.param


@pytest.fixture
def direct():
    """Sums of products in their order, everywhere: exact on integers."""
    pyconv.set_algorithm("direct")
    yield
    pyconv.set_algorithm("auto")


@pytest.fixture
def rng():
    """A generator that the seed in the report's header starts."""
    return np.random.default_rng(cases.SEED)


@pytest.fixture
def alarm(request):
    """`with alarm(seconds)`: end the whole run, with every thread's traceback, if it takes longer.

    A watchdog thread, since a signal handler waits for the very C call that hangs.
    """

    @contextlib.contextmanager
    def watch(seconds):
        file = request.config.stash[_STDERR]
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    return watch


@pytest.fixture
def run_python():
    """`run_python(code, NAME=value)`: run it in a fresh Python whose environment has only these.

    "Only" of the variables that pyconv reads; others are handed down. Returns the finished process.
    """

    def run(code, **variables):
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYCONV_", "OMP_", "GOMP_"))
        }
        here = [str(Path(pyconv.__file__).parent.parent), str(Path(__file__).parent)]
        kept["PYTHONPATH"] = os.pathsep.join(here)
        return subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=kept | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


# For the command line


@pytest.fixture
def pyconv_command(capsys):
    """`pyconv_command(*arguments)`: run it here; (status, lines of output, lines of errors)."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def folder(tmp_path):
    """A small data set."""
    return data_folders.write_data(tmp_path / "tiny")


@pytest.fixture
def model(folder, tmp_path):
    """The file of a network trained on `folder`."""
    out = tmp_path / "model"
    out.mkdir()
    training.Run.begin(out, data.load_folder(folder)).fit(3, quiet=True)
    return out / "model.h5"
