"""The command `pyconv`: train, evaluate, predict, bench, info.

Exit status: 0 done, 1 failed at run time, 2 wrong usage. An error is one line on standard error.
h5py, tqdm, matplotlib and Pillow are imported where they are used: `pyconv --help` is quick.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._version import __version__

if TYPE_CHECKING:
    from .data import Dataset
    from .model import Sequential
    from .training import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; by default those of the process.

    Raises
    ------
    SystemExit
        After --help (status 0) and on wrong usage (status 2).
    """
    try:
        args = _parser().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it exits, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail("standard output was closed before all was written")
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted")
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        return _fail(str(error) or type(error).__name__)
    return status


def _fail(message: str) -> int:
    print("pyconv: error:", " ".join(message.split()), file=sys.stderr)
    return 1


# train


def _train(args: argparse.Namespace) -> int:
    from . import plots, training
    from ._dispatch import active
    from ._threads import get_num_threads, threads

    say = _say_nothing if args.quiet else print
    folder = args.output or Path("runs", args.model or training.DEFAULT_MODEL)
    data = _load_data(args.data)
    options = {
        "model": args.model,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
    }
    begin = training.Run.resume if args.resume else training.Run.begin
    run = begin(folder, data, **options)
    _check_writable(folder)
    epochs = args.epochs or run.recipe.epochs

    with threads(args.threads or get_num_threads()):
        facts = {"model": run.settings.model, "threads": get_num_threads(), "isa": active.isa}
        say(f"Data: {_describe(data)}")
        say(
            f"Model: {facts['model']}; epochs: {_epochs(len(run.costs), epochs)}; "
            f"threads: {facts['threads']}; kernels: {facts['isa']}"
        )
        start = time.perf_counter()
        try:
            run.fit(epochs, quiet=args.quiet)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_where_it_stopped(run)) from None
        seconds = time.perf_counter() - start
        predicted = [
            run.network.predict_classes(training.scaled(x)) for x in (data.x_train, data.x_test)
        ]
    train_accuracy = float((predicted[0] == data.y_train).mean())
    test_accuracy = float((predicted[1] == data.y_test).mean())
    say(f"Train Accuracy: {train_accuracy:f}")
    say(f"Test Accuracy: {test_accuracy:f}")

    written = ["model.h5", "history.csv"]
    if plots.available():
        title = f"{run.settings.model} on {data.name}"
        accuracies = f"accuracy {train_accuracy:.3f} (training), {test_accuracy:.3f} (test)"
        plots.plot_history(
            folder / "history.png", run.costs, run.accuracies, f"{title}: {accuracies}"
        )
        plots.plot_confusion(
            folder / "confusion.png",
            plots.confusion(data.y_test, predicted[1], len(data.classes)),
            data.classes,
            f"{title}: {len(data.y_test)} test images",
        )
        written += ["history.png", "confusion.png"]
    else:
        say("No pictures: they need matplotlib, pip install 'pyconv-cnn[plot]'")
    say(f"Wrote {', '.join(written)} into {folder}")
    if args.json:
        result = facts | {
            "data": data.name,
            "train_accuracy": train_accuracy,
            "test_accuracy": test_accuracy,
            "costs": run.costs,
            "epochs": len(run.costs),
            "seconds": seconds,
            "output": str(folder),
        }
        print(json.dumps(result))
    return 0


def _epochs(done: int, wanted: int) -> str:
    if done == 0:
        return str(wanted)
    return f"{wanted}, {done} of them done" if done < wanted else f"{done}, all done already"


def _say_nothing(line: str) -> None:
    pass


def _check_writable(folder: Path) -> None:
    """Make the folder, and find out now and not after the training whether it takes files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for name in ("model.h5", "history.csv", "history.png", "confusion.png"):
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name}: is a folder; a file is to be written there")


def _where_it_stopped(run: Run) -> str:
    if not run.saved_epochs:
        return "interrupted in the first epoch, nothing was saved"
    return (
        f"interrupted; {run.folder / 'model.h5'} holds {run.saved_epochs} epochs, and --resume "
        "goes on from there"
    )


# evaluate, predict


def _evaluate(args: argparse.Namespace) -> int:
    from .functional import softmax_cross_entropy

    model, classes = _load_model(args.model)
    data = _load_data(args.data)
    if data.x_test.shape[1:] != model.input_shape or len(data.classes) > len(classes):
        raise ValueError(
            f"{args.model}: takes images of {_size(model.input_shape)} in {len(classes)} classes; "
            f"the data are {_describe(data)}"
        )
    logits = model.predict(data.x_test)
    loss, _ = softmax_cross_entropy(logits, data.y_test)
    accuracy = float((logits.argmax(axis=1) == data.y_test).mean())
    if args.json:
        result = {
            "model": str(args.model),
            "data": data.name,
            "images": len(data.y_test),
            "accuracy": accuracy,
            "loss": loss,
        }
        print(json.dumps(result))
    else:
        print(
            f"accuracy {accuracy:f}, loss {loss:f} on {len(data.y_test)} test images of {data.name}"
        )
    return 0


def _predict(args: argparse.Namespace) -> int:
    import numpy as np

    from .images import read_image

    model, classes = _load_model(args.model)
    x = np.stack([read_image(path, model.input_shape) for path in args.images])
    probabilities = model.predict_proba(x)
    results = [
        {
            "image": str(path),
            "class": classes[row.argmax()],
            "probability": float(row.max()),
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
        }
        for path, row in zip(args.images, probabilities, strict=True)
    ]
    if args.json:
        print(json.dumps(results))
    else:
        for result in results:
            print(f"{result['image']}: {result['class']} (probability {result['probability']:.4f})")
    return 0


def _load_model(path: Path) -> tuple[Sequential, list[str]]:
    """The network in `path`, which takes bytes of images, and the names of its classes."""
    from .layers import Rescaling
    from .model import load_model

    model = load_model(path)
    if len(model.input_shape) != 3 or len(model.output_shape) != 1:
        raise ValueError(
            f"{path}: takes inputs of shape {model.input_shape} and gives outputs of shape "
            f"{model.output_shape}; expected a network that classifies images"
        )
    if not isinstance(model.layers[0], Rescaling):
        raise ValueError(
            f"{path}: does not say how to scale the bytes of an image; save the network with "
            "Rescaling(1 / 255) as its first layer, as `pyconv train` does"
        )
    numbers = [str(i) for i in range(*model.output_shape)]
    classes = model.metadata.get("classes", numbers)
    return model, classes


# info


def _info(args: argparse.Namespace) -> int:
    from .functional import info

    facts = info()
    if args.json:
        print(json.dumps(facts))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:{width}}  {words}")
    return 0


# Shared by commands


def _load_data(directory: Path | None) -> Dataset:
    from . import data

    return data.embedded() if directory is None else data.load_folder(directory)


def _describe(data: Dataset) -> str:
    return (
        f"{data.name}, {len(data.x_train)} training and {len(data.x_test)} test images of "
        f"{_size(data.x_train.shape[1:])} in {len(data.classes)} classes"
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


# The arguments


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and its errors are one line, like all others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"pyconv: error: {message} (try: {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    from .bench import cli as bench
    from .training import DEFAULT_MODEL, MODELS

    parser = _Parser(
        prog="pyconv", description="Train and run small convolutional networks on the CPU."
    )
    parser.add_argument("--version", action="version", version=f"pyconv {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", description="`pyconv COMMAND --help` has the options."
    )

    def add(
        name: str, run: Callable[[argparse.Namespace], int], words: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}."
        )
        command.set_defaults(run=run)
        return command

    def values(option: str) -> str:
        return ", ".join(f"{name} {getattr(recipe, option):g}" for name, recipe in MODELS.items())

    def usual(option: str) -> str:
        return f"(default: {values(option)})"

    data: dict[str, Any] = {
        "type": Path,
        "metavar": "DIR",
        "help": "folder with train_signs.h5 and test_signs.h5, with MNIST's idx files, or with one "
        ".npz of x_train, y_train, x_test, y_test (default: the embedded data, drawn hand signs)",
    }
    as_json: dict[str, Any] = {"action": "store_true", "help": "print the result as one line of JSON"}
    model: dict[str, Any] = {
        "type": Path,
        "metavar": "MODEL",
        "help": "file of a trained network, such as runs/signs/model.h5",
    }

    train = add("train", _train, "train a network, and write it with its history and pictures")
    train.add_argument("--data", **data)
    train.add_argument("--model", choices=MODELS, help=f"network (default: {DEFAULT_MODEL})")
    train.add_argument(
        "--epochs", type=_whole(1), metavar="N", help=f"passes over the data {usual('epochs')}"
    )
    train.add_argument(
        "--batch-size",
        type=_whole(1),
        metavar="N",
        help=f"images a minibatch {usual('batch_size')}",
    )
    train.add_argument(
        "--learning-rate",
        type=_rate,
        metavar="R",
        help=f"Adam's, in the first epoch {usual('learning_rate')}; after n epochs R / (1 + n * "
        f"decay) (decay: {values('decay')})",
    )
    train.add_argument(
        "--threads",
        type=_whole(1, 1024),
        metavar="N",
        help="changes the time, not the result (default: PYCONV_NUM_THREADS, OMP_NUM_THREADS or "
        "all CPUs)",
    )
    train.add_argument(
        "--seed",
        type=_whole(0),
        metavar="N",
        help="of the first weights and the order of the images (default: 0, with which signs is "
        "the course assignment's run)",
    )
    train.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write to (default: runs/<model>)"
    )
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder --output"
    )
    train.add_argument("--json", **as_json)
    train.add_argument(
        "--quiet", action="store_true", help="print nothing but errors and what --json asks for"
    )

    evaluate = add("evaluate", _evaluate, "print a model's accuracy and loss on test images")
    evaluate.add_argument("model", **model)
    evaluate.add_argument("--data", **data)
    evaluate.add_argument("--json", **as_json)

    predict = add("predict", _predict, "print the class of each image file")
    predict.add_argument("model", **model)
    predict.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="image file of any size and colour mode"
    )
    predict.add_argument("--json", **as_json)

    bench.add_arguments(add("bench", bench.run, "measure speed, beside other libraries if asked"))

    info = add("info", _info, "print version, kernels, threads and compiler")
    info.add_argument("--json", **as_json)

    def no_command(args: argparse.Namespace) -> NoReturn:
        parser.print_help()
        parser.error("choose a command")

    parser.set_defaults(run=no_command)
    return parser


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else -1
        if number < low or (high is not None and number > high):
            words = f"from {low} to {high}" if high else f"of at least {low}"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {words}")
        return number

    return parse


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return rate
