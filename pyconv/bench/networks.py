"""`pyconv bench networks`: training steps and inference of whole networks, beside other libraries.

All start from the same weights and train on the same batches. The losses of the first steps, and the
outputs of inference, are compared before anything is timed; then all sides take turns.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np

from .. import optimizers, zoo
from .._threads import threads
from ..model import Sequential
from . import network_file
from .layers import label_threads
from .measure import PAUSE, UNSTEADY, seconds_per_call
from .peer import Peer, PeerCannotError
from .problem import sample
from .reference import WrongResultError

NETWORKS: dict[str, Callable[..., Sequential]] = {
    "signs": zoo.signs_convnet, "lenet5": zoo.lenet5, "vgg_small": zoo.vgg_small,
    "resnet20": zoo.resnet20,
}
MODES = ("train", "infer_64", "infer_1")
BATCH, STEPS = 64, 20
LEARNING_RATE = 1e-3
ROUND = 0.15  # seconds: several of the longest steps
# Two libraries that round differently drift apart as training goes on: after 20 steps by some 1e-4.
LOSS_DIFFERENCE = 0.02
OUTPUT_DIFFERENCE = 1e-3  # of the outputs' rms


@dataclass
class Row:
    """One network in one mode on one number of threads: seconds of a call, round by round."""

    network: str
    mode: str
    threads: int
    rounds: list[float] = field(default_factory=list)
    peer_rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return min(self.rounds)

    def peer_seconds(self, peer: str) -> float | None:
        """A peer's time in its best layout; None if it cannot do this."""
        return min((min(rounds) for rounds in self.peer_rounds.get(peer, {}).values() if rounds),
                   default=None)

    def ratio(self, peer: str) -> float | None:
        """Peer's time / pyconv's time."""
        seconds = self.peer_seconds(peer)
        return seconds / self.seconds if seconds else None

    @property
    def fastest(self) -> float | None:
        """The ratio to the fastest peer."""
        return min((r for peer in self.peer_rounds if (r := self.ratio(peer))), default=None)

    @property
    def is_unsteady(self) -> bool:
        """Whether half of some side's rounds took far longer than its best."""
        sides = [self.rounds, *(r for layouts in self.peer_rounds.values() for r in layouts.values())]
        return any(rounds and median(rounds) > UNSTEADY * min(rounds) for rounds in sides)

    def as_row(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {"network": self.network, "mode": self.mode, "threads": self.threads,
                "seconds": self.seconds, "rounds": self.rounds, "unsteady": self.is_unsteady,
                "peers": {peer: {"seconds": self.peer_seconds(peer), "ratio": self.ratio(peer),
                                 "rounds": rounds} for peer, rounds in self.peer_rounds.items()}}


class Network:
    """A network of the table with its weights and batches, also as a file for the peers."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.file = name, folder / f"{name}.npz"
        model = self._new()
        rng = np.random.default_rng(1)
        (classes,) = model.output_shape
        self.x = rng.random((STEPS, BATCH, *model.input_shape), np.float32)
        self.labels = rng.integers(0, classes, (STEPS, BATCH))
        network_file.write(self.file, model, self.x, self.labels)

    def _new(self) -> Sequential:
        model = NETWORKS[self.name](seed=0)
        model.compile(optimizers.Adam(LEARNING_RATE), "softmax_cross_entropy", metrics=())
        return model

    def prepare(self, mode: str) -> tuple[Callable[[], Any], np.ndarray]:
        """The call that is timed, and what the peers' result is compared with."""
        model = self._new()
        if mode == "train":
            losses = [model.train_on_batch(x, y) for x, y in zip(self.x, self.labels, strict=True)]
            count = 0

            def step() -> None:
                nonlocal count
                model.train_on_batch(self.x[count % STEPS], self.labels[count % STEPS])
                count += 1

            return step, np.array(losses)
        x = self.x[0, :int(mode.removeprefix("infer_"))]
        return lambda: model.predict_on_batch(x), model.predict_on_batch(x)


def measure_networks(names: Sequence[str], modes: Sequence[str], counts: Sequence[int], rounds: int,
                     peers: Sequence[Peer]) -> Iterator[list[Row]]:
    """Compare, then time; yields the rows of each network and mode.

    Raises
    ------
    WrongResultError
        If a peer's losses or outputs are others.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            network = Network(name, Path(folder))
            for mode in modes:
                yield _measure(network, mode, counts, rounds, peers)
            network.file.unlink()


def _measure(network: Network, mode: str, counts: Sequence[int], rounds: int,
             peers: Sequence[Peer]) -> list[Row]:
    call, result = network.prepare(mode)
    layouts = {peer: _prepare(peer, network, mode, result) for peer in peers}
    rows = [Row(network.name, mode, count, [], {
        peer.name: {layout: [] for layout in found} for peer, found in layouts.items() if found})
        for count in counts]
    for _ in range(rounds):
        for row in rows:
            with threads(row.threads):
                row.rounds.append(seconds_per_call(call, ROUND))
            time.sleep(PAUSE)
            for peer, found in layouts.items():
                for layout in found:
                    try:
                        seconds = peer.time(layout, row.threads, ROUND)
                    except PeerCannotError:  # not on so many threads
                        continue
                    row.peer_rounds[peer.name][layout].append(seconds)
                    time.sleep(PAUSE)
    return rows


def _prepare(peer: Peer, network: Network, mode: str, ours: np.ndarray) -> list[str]:
    """The peer's layouts, after a look at its result; none if it cannot do this."""
    try:
        theirs = peer.prepare_problem({"file": str(network.file)}, mode)
    except PeerCannotError:
        return []
    mine = sample(ours, len(theirs))
    scale = 1.0 if mode == "train" else float(np.sqrt(np.mean(np.square(ours))))
    allowed = LOSS_DIFFERENCE if mode == "train" else OUTPUT_DIFFERENCE * scale
    if not np.abs(mine - theirs).max() <= allowed:
        raise WrongResultError(
            f"{network.name} {mode}, beside {peer.name}: differs by {np.abs(mine - theirs).max():.1e}, "
            f"more than {allowed:.1e}")
    return peer.layouts


def peak_memory(name: str, start: Callable[[], Peer]) -> int | None:
    """Bytes that a library's process grows by, at its peak, in training steps of a network."""
    with tempfile.TemporaryDirectory() as folder, start() as peer:
        network = Network(name, Path(folder))
        try:
            peer.prepare_problem({"file": str(network.file), "one_layout": True}, "train")
        except PeerCannotError:
            return None
        return peer.memory()


def print_rows(measured: Iterator[list[Row]], peers: Sequence[str]) -> list[Row]:
    """Print each row as it comes; returns them all."""
    columns = "".join(f"{peer + ' ms':>16}  ratio" for peer in peers)
    print(f"\n{'network':<12}{'mode':<10}{'threads':>7}{'ms':>10}{columns}", flush=True)
    everything = []
    for group in measured:
        for row in group:
            cells = "".join(
                f"{1e3 * seconds:16.3f}{row.ratio(peer):7.2f}" if (seconds := row.peer_seconds(peer))
                else f"{'-':>16}{'-':>7}" for peer in peers)
            print(f"{row.network:<12}{row.mode:<10}{row.threads:>7}{1e3 * row.seconds:10.3f}{cells}"
                  f"{' *' if row.is_unsteady else ''}", flush=True)
            everything.append(row)
    if any(row.is_unsteady for row in everything):
        print(f"\n* unsteady: half of the rounds took over {UNSTEADY} times the best, of pyconv or a "
              "peer; this machine had other work, and the ratio says little")
    return everything


def print_summary(rows: Sequence[Row]) -> None:
    """Print the ratios to the fastest peer, and what a second thread brings."""
    for count in sorted({row.threads for row in rows}):
        ratios = [(row, row.fastest) for row in rows if row.threads == count and row.fastest]
        if ratios:
            print(f"\nfastest peer's time / pyconv's, {label_threads(count)}")
            for mode in dict.fromkeys(row.mode for row, _ in ratios):
                chosen = [(row.network, ratio) for row, ratio in ratios if row.mode == mode]
                print(f"  {mode:<10}" + "  ".join(f"{name} {ratio:.2f}" for name, ratio in chosen)
                      + f"  (geometric mean {geometric_mean([r for _, r in chosen]):.2f})")
    by_key = {(row.network, row.mode, row.threads): row.seconds for row in rows}
    scaled = [(name, mode, by_key[name, mode, 1] / by_key[name, mode, 2])
              for name, mode, count in by_key if count == 2 and (name, mode, 1) in by_key]
    if scaled:
        print("\ntwo threads over one")
        for name, mode, ratio in scaled:
            print(f"  {name:<12}{mode:<10}{ratio:6.2f}")


def print_profile(names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Print the milliseconds of each operation of a training step, both ways."""
    found = []
    for name in names:
        model = NETWORKS[name](seed=0)
        model.compile(optimizers.Adam(LEARNING_RATE))
        x = np.random.default_rng(1).random((BATCH, *model.input_shape), np.float32)
        print(f"\n{name}, a training step of {BATCH} images, {label_threads(count)}: milliseconds")
        print(f"  {'operation':<44}{'forward':>9}{'backward':>9}")
        with threads(count):
            for row in model.profile(x, rounds=20):
                print(f"  {row['operation']:<44}{1e3 * row['forward']:9.3f}"
                      f"{1e3 * row['backward']:9.3f}")
                found.append({"network": name, **row})
    return found


def print_memory(names: Sequence[str], sides: Mapping[str, Callable[[], Peer]]) -> list[dict[str, Any]]:
    """Print the peak memory of training steps, above the imported library."""
    found = []
    print(f"\npeak memory of training, {BATCH} images, above the imported library: MB")
    for name in names:
        peaks = {side: peak_memory(name, start) for side, start in sides.items()}
        print(f"  {name:<12}" + "  ".join(f"{side} {peak / 1e6:.0f}" for side, peak in peaks.items()
                                          if peak is not None))
        found.append({"network": name, "bytes": peaks})
    return found


def report(rows: Sequence[Row], profile: Any, memory: Any, facts: Any, versions: Any) -> str:
    """All that was measured, as JSON."""
    return json.dumps({"section": "networks", "machine": facts, "peers": versions,
                       "rows": [row.as_row() for row in rows], "profile": profile,
                       "memory": memory}, indent=1) + "\n"
