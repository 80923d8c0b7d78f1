"""Another library to measure beside pyconv, in a process of its own that answers JSON lines.

A further peer is one more script that calls `peer_protocol.serve`, and one more entry in SCRIPTS.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .problem import Problem
from .shapes import as_peer_problem

SCRIPTS = {name: Path(__file__).with_name(f"peer_{name}.py") for name in ("torch", "ncnn")}
NETWORK_SCRIPTS = {name: Path(__file__).with_name(f"net_{name}.py")
                   for name in ("torch", "keras", "onnxruntime", "openvino", "ncnn")}


class PeerMissingError(OSError):
    """That Python cannot run the peer."""


class PeerCannotError(Exception):
    """The peer has no such operation; it can be asked for others."""


class PeerError(OSError):
    """The peer stopped."""


class Peer:
    """A running peer.

    Parameters
    ----------
    script : path
        What the process runs: one of SCRIPTS.
    python : str
        The Python that runs it, which needs the peer's library but not pyconv.

    Attributes
    ----------
    name, version : str
        As the peer calls itself.
    layouts : list of str
        Memory layouts that it was prepared for and can be timed with.

    Raises
    ------
    PeerMissingError
        If there is no such Python, or it lacks the library; the message says which.
    """

    def __init__(self, script: Path, python: str) -> None:
        self._script, self._python = script, python
        self._start()

    def _start(self) -> None:
        script, python = self._script, self._python
        self.layouts: list[str] = []
        self._errors = tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(
                [python, str(script)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._errors)
        except OSError as error:
            self._errors.close()
            raise PeerMissingError(f"cannot start {python}: {error.strerror}") from error
        try:
            hello = self._answer()
        except PeerError as error:
            self.close()
            raise PeerMissingError(f"{python} cannot run {script.name}: {error}") from error
        self.name, self.version = hello["name"], hello["version"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, problem: Problem) -> np.ndarray:
        """Make the peer ready for a problem; returns a sample of its result (`problem.sample`).

        Raises
        ------
        PeerCannotError
            If the peer has no such operation.
        """
        return self.prepare_problem(as_peer_problem(problem.shape), problem.direction)

    def prepare_problem(self, problem: dict[str, Any], direction: str) -> np.ndarray:
        """As `prepare`, for a problem in the words of the peer's script."""
        answer = self._ask(do="prepare", problem=problem, direction=direction)
        self.layouts = answer["layouts"]
        return np.array(answer["sample"])

    def memory(self) -> int:
        """Bytes by which the process has grown at its peak, since its library was imported."""
        return self._ask(do="memory")["bytes"]

    def time(self, layout: str, threads: int, seconds: float) -> float:
        """Mean seconds of a call, over as many calls as fill `seconds`."""
        return self._ask(do="time", layout=layout, threads=threads, seconds=seconds)["seconds"]

    def restart(self) -> None:
        """Begin again, with a process that is not prepared for anything."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; reading its answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            reason = lines[-1] if lines else f"exit status {self._process.returncode}"
            raise PeerError(f"the peer stopped: {reason}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerCannotError(answer["error"])
        return answer
