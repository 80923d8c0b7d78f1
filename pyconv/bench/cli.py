"""The command line of `pyconv bench`: which layers, how often, beside whom, written where."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from . import layers, machine, plot, threads
from .measure import Measurement, measure_all
from .peer import SCRIPTS, Peer, PeerError, PeerMissingError
from .reference import WrongResultError
from .shapes import TABLE, ConvShape, PoolShape, load

DIRECTIONS = (*ConvShape.directions, *PoolShape.directions)
PEER_PYTHON = "PYCONV_PEER_PYTHON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pyconv bench` to its parser."""
    parser.add_argument(
        "what", choices=("layers", "threads"),
        help="layers: each layer's time, rate and ratio to a peer; threads: how it scales")
    parser.add_argument(
        "--threads", type=_counts, metavar="1,2",
        help="numbers of threads to measure (default: layers: as many as pyconv would use; "
             "threads: 1 up to this machine's CPUs)")
    parser.add_argument("--peer", choices=sorted(SCRIPTS),
                        help="measure this library beside pyconv")
    parser.add_argument(
        "--peer-python", metavar="PATH", default=os.environ.get(PEER_PYTHON, sys.executable),
        help=f"a Python that has the peer (default: {PEER_PYTHON}, or else this one)")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--small", dest="section", action="store_const", const="small",
                       default="layers", help="the smallest case alone: a few seconds")
    table.add_argument("--extra", dest="section", action="store_const", const="extra",
                       help="shapes that are in no table: odd sizes, groups, batches of 1 and 256")
    parser.add_argument("--shapes", type=Path, default=TABLE, metavar="FILE",
                        help=f"another table in the form of pyconv/bench/{TABLE.name}")
    parser.add_argument("--only", type=_names, metavar="NAME[,NAME]",
                        help="these layers alone, from any section of the table")
    parser.add_argument("--direction", type=_directions, default=DIRECTIONS, metavar="D[,D]",
                        help=f"these directions alone, out of {', '.join(DIRECTIONS)}")
    parser.add_argument("--rounds", type=_positive, default=7, metavar="N",
                        help="rounds of timing, of which the best counts (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture (matplotlib)")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit status: 1 if a result is wrong or a file is."""
    try:
        _run(args)
    except (ValueError, OSError, WrongResultError, PeerError) as error:
        print(f"pyconv bench: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str]) -> int:
    """`pyconv bench` with these arguments, for the scripts in benchmarks/."""
    parser = argparse.ArgumentParser(prog="pyconv bench")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    if args.plot and not plot.available():
        raise ValueError("--plot needs matplotlib: pip install 'pyconv-cnn[plot]'")
    for path in (args.json, args.plot):
        if path and not path.parent.is_dir():
            raise ValueError(f"no folder {path.parent} to write {path.name} into")
    chosen = _choose(load(args.shapes), args.section, args.only)
    counts = args.threads or _default_threads(args.what)
    facts = machine.describe()
    print(f"{facts['cpu']}, {facts['cpus']} CPUs, kernels {facts['isa']}; FMA peak "
          + ", ".join(f"{machine.fma_peak(count):.0f} GFLOP/s on {layers.label_threads(count)}"
                      for count in counts))
    if machine.is_busy(max(counts)):
        print("this machine is busy with other work: times on several threads say little",
              file=sys.stderr)
    with _start_peer(args.peer, args.peer_python) as peer:
        name = peer.name if peer else None
        if peer:
            print(f"beside {name} {peer.version}, in the faster of its layouts")
        measured = measure_all(chosen, args.direction, counts, args.rounds, peer)
        if args.what == "layers":
            measurements = layers.print_rows(measured, name)
            if name:
                layers.print_summary(measurements, name)
        else:
            measurements = threads.print_rows(measured, counts, name)
            threads.print_summary(measurements)
        peer_facts = {"name": name, "version": peer.version} if peer else None
    if not measurements:
        raise ValueError(f"no layer chosen has a direction {', '.join(args.direction)}")
    if args.json:
        args.json.write_text(json.dumps(_report(facts, peer_facts, counts, measurements), indent=1)
                             + "\n")
    if args.plot:
        title = f"{facts['cpu']}, kernels {facts['isa']}"
        if args.what == "layers":
            plot.plot_layers(args.plot, measurements, name, title)
        else:
            plot.plot_threads(args.plot, measurements, title)


def _choose(table: dict[str, list[ConvShape | PoolShape]], section: str,
            only: list[str] | None) -> list[ConvShape | PoolShape]:
    if only is None:
        if section not in table:
            raise ValueError(f"the table has no section {section!r}, only {', '.join(table)}")
        return table[section]
    by_name = {shape.name: shape for shapes in table.values() for shape in shapes}
    unknown = [name for name in only if name not in by_name]
    if unknown:
        raise ValueError(f"--only: the table has no {', '.join(unknown)}; "
                         f"it has {', '.join(by_name)}")
    return [by_name[name] for name in only]


def _default_threads(what: str) -> list[int]:
    from .._threads import available_cpus, get_num_threads

    return [get_num_threads()] if what == "layers" else list(range(1, available_cpus() + 1))


def _start_peer(name: str | None, python: str) -> Any:
    """The peer; or nothing, after a message, where it is not installed."""
    if name is None:
        return nullcontext()
    try:
        return Peer(SCRIPTS[name], python)
    except PeerMissingError as error:
        print(f"without {name}: {error}; choose a Python that has it by --peer-python or "
              f"{PEER_PYTHON}", file=sys.stderr)
        return nullcontext()


def _report(facts: dict[str, Any], peer: dict[str, Any] | None, counts: list[int],
            measurements: list[Measurement]) -> dict[str, Any]:
    peaks = {count: machine.fma_peak(count) for count in counts}
    return {
        "machine": facts, "peer": peer,
        "fma_peak_gflops": peaks,
        "region_seconds": {count: machine.region_seconds(count) for count in counts},
        "rows": [m.as_row() for m in measurements],
    }


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _directions(text: str) -> list[str]:
    unknown = [name for name in _names(text) if name not in DIRECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; expected some of {', '.join(DIRECTIONS)}")
    return _names(text)


def _counts(text: str) -> list[int]:
    return sorted({_positive(name) for name in _names(text)})


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)
