"""The command line of `pyconv bench`: which layers, how often, beside whom, written where.

Errors are `pyconv.cli`'s to print: what is raised here, and wrong usage, which goes to the parser.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from . import layers, machine, plot, random_shapes, threads
from .measure import Measurement, measure_all
from .peer import NETWORK_SCRIPTS, SCRIPTS, Peer, PeerMissingError
from .predict import Prediction, predict_all
from .shapes import TABLE, ConvShape, PoolShape, load

MODES = ("train", "infer_64", "infer_1")
DIRECTIONS = (*ConvShape.directions, *PoolShape.directions)
PEER_PYTHON = "PYCONV_PEER_PYTHON"
NET_PYCONV = Path(__file__).with_name("net_pyconv.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pyconv bench` to its parser."""
    parser.add_argument(
        "what", choices=("layers", "networks", "threads"),
        help="layers: each layer's time, rate and ratio to a peer; networks: training steps and "
             "inference of whole networks; threads: how layers scale, and a prediction for 4 to 128 "
             "threads")
    parser.add_argument(
        "--threads", type=_counts, metavar="1,2",
        help="numbers of threads to measure (default: layers: as many as pyconv would use; "
             "threads: 1 up to this machine's CPUs)")
    parser.add_argument(
        "--peer", type=_some_of(tuple(NETWORK_SCRIPTS)), default=[], metavar="P[,P]",
        help=f"measure these libraries beside pyconv: layers: {', '.join(SCRIPTS)}; networks: "
             f"{', '.join(NETWORK_SCRIPTS)}")
    parser.add_argument(
        "--peer-python", metavar="PATH", default=os.environ.get(PEER_PYTHON, sys.executable),
        help=f"a Python that has the peers (default: {PEER_PYTHON}, or else this one)")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--small", dest="section", action="store_const", const="small",
                       default="layers", help="the smallest case alone: a few seconds")
    table.add_argument("--one-image", dest="section", action="store_const", const="one_image",
                       help="3x3 layers for one image")
    table.add_argument("--extra", dest="section", action="store_const", const="extra",
                       help="shapes that are in no table: odd sizes, groups, batches of 1 and 256")
    table.add_argument("--random", type=_positive, metavar="N",
                       help="N convolutions drawn at random, to find cliffs")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="of --random: the same seed draws the same shapes (default: 0)")
    parser.add_argument("--shapes", type=Path, default=TABLE, metavar="FILE",
                        help=f"another table in the form of pyconv/bench/{TABLE.name}")
    parser.add_argument("--only", type=_names, metavar="NAME[,NAME]",
                        help="these layers alone, from any section of the table; or these networks")
    parser.add_argument("--direction", type=_some_of(DIRECTIONS), default=DIRECTIONS, metavar="D[,D]",
                        help=f"these directions alone, out of {', '.join(DIRECTIONS)}")
    parser.add_argument("--mode", type=_some_of(MODES), default=MODES, metavar="M[,M]",
                        help=f"networks: these alone, out of {', '.join(MODES)}")
    parser.add_argument("--profile", action="store_true",
                        help="networks: also the time of each layer, forward and backward")
    parser.add_argument("--memory", action="store_true",
                        help="networks: also the peak memory of training")
    parser.add_argument("--rounds", type=_positive, default=7, metavar="N",
                        help="rounds of timing, of which the best counts (default: 7)")
    parser.add_argument("--json", type=_new_file, metavar="FILE",
                        help="write all that was measured")
    parser.add_argument("--plot", type=_new_file, metavar="FILE",
                        help="draw a picture (matplotlib)")
    parser.set_defaults(wrong_usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark.

    Raises
    ------
    ValueError, OSError, ImportError
        If a result is wrong, a peer stops, or a file or matplotlib cannot be used.
    """
    if args.plot and not plot.available():
        raise ImportError("--plot needs matplotlib: pip install 'pyconv-cnn[plot]'")
    if args.what == "networks":
        return _run_networks(args)
    if unknown := [name for name in args.peer if name not in SCRIPTS]:
        args.wrong_usage(f"--peer: {', '.join(unknown)} cannot be measured layer by layer")
    chosen = _choose(args)
    counts = args.threads or _default_threads(args.what)
    facts = machine.describe()
    print(f"{facts['cpu']}, {facts['cpus']} CPUs, kernels {facts['isa']}; FMA peak "
          + ", ".join(f"{machine.fma_peak(count):.0f} GFLOP/s on {layers.label_threads(count)}"
                      for count in counts))
    if machine.is_busy(max(counts)):
        print("this machine is busy with other work: times on several threads say little",
              file=sys.stderr)
    predictions: list[Prediction] = []
    with ExitStack() as stack:
        peers = _start_peers(SCRIPTS, args.peer, args.peer_python, stack)
        names = [peer.name for peer in peers]
        if peers:
            print("beside " + ", ".join(f"{peer.name} {peer.version}" for peer in peers)
                  + ", each in its fastest layout")
        measured = measure_all(chosen, args.direction, counts, args.rounds, peers)
        if args.what == "layers":
            width = max(14, 2 + max(len(shape.name) for shape in chosen))
            measurements = layers.print_rows(measured, names, width)
            for name in names:
                layers.print_summary(measurements, name)
        else:
            measurements = threads.print_rows(measured, counts, names)
            threads.print_summary(measurements)
            predictions = threads.print_predictions(
                predict_all(chosen, args.direction, args.rounds), counts)
        versions = [{"name": peer.name, "version": peer.version} for peer in peers]
    if args.json:
        report = {"section": None if args.only or args.random else args.section,
                  **_report(facts, versions, counts, measurements, predictions)}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        title = f"{facts['cpu']}, kernels {facts['isa']}"
        if args.what == "layers":
            plot.plot_layers(args.plot, measurements, names, title)
        else:
            plot.plot_threads(args.plot, measurements, predictions, title)
    return 0


def _choose(args: argparse.Namespace) -> list[ConvShape | PoolShape]:
    """The shapes that were asked for; an error of usage if there are none."""
    table = load(args.shapes)
    if args.random and args.only is not None:
        args.wrong_usage("--only: names are of the table's layers, and --random draws others")
    if args.random:
        chosen: list[ConvShape | PoolShape] = [*random_shapes.draw(args.random, args.seed)]
    elif args.only is None:
        if args.section not in table:
            args.wrong_usage(f"{args.shapes} has no section {args.section!r}, only "
                             f"{', '.join(table)}")
        chosen = table[args.section]
    else:
        by_name = {shape.name: shape for shapes in table.values() for shape in shapes}
        unknown = [name for name in args.only if name not in by_name]
        if unknown:
            args.wrong_usage(f"--only: the table has no {', '.join(unknown)}; "
                             f"it has {', '.join(by_name)}")
        chosen = [by_name[name] for name in args.only]
    if not any(direction in args.direction for shape in chosen for direction in shape.directions):
        args.wrong_usage(f"--direction: no layer chosen has {', '.join(args.direction)}")
    return chosen


def _default_threads(what: str) -> list[int]:
    from .._threads import available_cpus, get_num_threads

    return [get_num_threads()] if what == "layers" else list(range(1, available_cpus() + 1))


def _run_networks(args: argparse.Namespace) -> int:
    from . import networks

    names = args.only or list(networks.NETWORKS)
    if unknown := [name for name in names if name not in networks.NETWORKS]:
        args.wrong_usage(f"--only: there is no network {', '.join(unknown)}; "
                         f"there are {', '.join(networks.NETWORKS)}")
    if args.plot:
        args.wrong_usage("--plot draws layers and threads, not networks")
    counts = args.threads or _default_threads("layers")
    os.environ["PYCONV_PEER_THREADS"] = str(max(counts))  # for peers that cannot change it later
    facts = machine.describe()
    print(f"{facts['cpu']}, {facts['cpus']} CPUs, kernels {facts['isa']}")
    if machine.is_busy(max(counts)):
        print("this machine is busy with other work: times on several threads say little",
              file=sys.stderr)
    with ExitStack() as stack:
        peers = _start_peers(NETWORK_SCRIPTS, args.peer, args.peer_python, stack)
        if peers:
            print("beside " + ", ".join(f"{peer.name} {peer.version}" for peer in peers))
        measured = networks.measure_networks(names, args.mode, counts, args.rounds, peers)
        rows = networks.print_rows(measured, [peer.name for peer in peers])
        versions = [{"name": peer.name, "version": peer.version} for peer in peers]
    networks.print_summary(rows)
    profile = networks.print_profile(names, max(counts)) if args.profile else []
    memory = []
    if args.memory:
        sides = {"pyconv": partial(Peer, NET_PYCONV, sys.executable)}
        sides |= {name: partial(Peer, NETWORK_SCRIPTS[name], args.peer_python) for name in args.peer
                  if name in ("torch", "keras")}
        memory = networks.print_memory(names, sides)
    if args.json:
        args.json.write_text(networks.report(rows, profile, memory, facts, versions))
    return 0


def _start_peers(scripts: dict[str, Path], names: Sequence[str], python: str, stack: ExitStack
                 ) -> list[Peer]:
    """The peers, to be closed by `stack`; a message for each that is not installed."""
    peers = []
    for name in names:
        try:
            peers.append(stack.enter_context(Peer(scripts[name], python)))
        except PeerMissingError as error:
            print(f"without {name}: {error}; choose a Python that has it by --peer-python or "
                  f"{PEER_PYTHON}", file=sys.stderr)
    return peers


def _report(facts: dict[str, Any], peers: list[dict[str, str]], counts: list[int],
            measurements: list[Measurement], predictions: list[Prediction]) -> dict[str, Any]:
    predicted = threads.predicted_counts(counts)
    return {
        "machine": facts, "peers": peers,
        "fma_peak_gflops": {count: machine.fma_peak(count) for count in counts},
        "region_seconds": {count: machine.region_seconds(count)
                           for count in (predicted if predictions else counts)},
        "rows": [m.as_row() for m in measurements],
        "predictions": [p.as_row(predicted) for p in predictions],
    }


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        unknown = [name for name in _names(text) if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown {', '.join(unknown)}; expected some of {', '.join(known)}")
        return _names(text)

    return parse


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {path.parent} to write {path.name} into")
    return path


def _counts(text: str) -> list[int]:
    return sorted({_positive(name) for name in _names(text)})


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)
