"""What README.md shows works: its examples are run, its commands parsed, its links followed."""

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from pyconv import cli, data

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = ("docs", "benchmarks", "examples")
DOCUMENTS = [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).glob("*.md"))]


def blocks(path, language):
    """The code blocks of a Markdown file in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(path):
    """The lines of a Markdown file that run `pyconv`, without what explains them."""
    lines = "".join(blocks(path, "(?:sh|text)")).splitlines()
    found = (re.search(r"(?:^|&& )pyconv (.*?)(?: {2,}.*)?$", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def test_python_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [example] = blocks(README, "python")
    [shown] = [block for block in blocks(README, "text") if "of the test images are right" in block]
    exec(compile(example, str(README), "exec"), {})  # as a user would run it
    pattern = r"(\d+)% of the test images are right\n\[([\d ]+)\]\n"
    percent, classes = re.fullmatch(pattern, capsys.readouterr().out).groups()
    percent_shown, classes_shown = re.fullmatch(pattern, shown).groups()
    # Bits differ between kinds of CPU, and training makes more of it.
    assert abs(int(percent) - int(percent_shown)) <= 8
    assert len(classes.split()) == len(classes_shown.split()) == 5
    assert np.mean(np.array(classes.split(), int) == data.embedded().y_test[:5]) >= 0.6


def test_assignment_example():
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_links(path):
    for arguments in commands(path):
        cli._parser().parse_args(arguments)
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / link).exists(), link


def test_commands_are_found():
    assert ["train"] in commands(README) and ["info"] in commands(README)
    assert ["bench", "layers", "--small"] in commands(ROOT / "benchmarks" / "README.md")
