"""Callbacks: what `fit` calls around epochs and minibatches. Names and meanings are Keras's.

`fit` calls the hooks of its own progress display and `History` after those given to it, so that
what a callback adds to an epoch's `logs` (the learning rate, say) is shown and recorded.
"""

from __future__ import annotations

import csv
import inspect
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ._arguments import Configurable, choose, did_you_mean, real
from .geometry import integer

if TYPE_CHECKING:
    from .model import Sequential

Logs = dict[str, Any]


class Callback(Configurable):
    """Base of all callbacks: override any of the hooks.

    Attributes
    ----------
    model : Sequential
        The model that is trained; ``model.stop_training = True`` ends the training after the
        minibatch at hand.
    params : dict
        "epochs" (the last one's number + 1), "steps" (minibatches an epoch) and "initial_epoch".

    Notes
    -----
    Epochs and minibatches count from 0. `logs` of a minibatch hold its mean "loss" and its
    "accuracy"; those of an epoch the means over its minibatches, and "val_loss" and "val_accuracy".

    Examples
    --------
    >>> class Costs(Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         print(epoch, logs["loss"])
    """

    model: Sequential
    params: dict[str, int]

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """After a minibatch's update."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch; `logs` are that epoch's."""


class History(Callback):
    """The logs of all epochs; what `fit` returns.

    Attributes
    ----------
    epoch : list of int
        Numbers of the epochs.
    history : dict of str to list of float
        "loss", "accuracy", "val_loss", "val_accuracy" and what other callbacks add, one an epoch.
    """

    def on_train_begin(self, logs: Logs) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class _Monitor(Callback):
    """A callback that asks after each epoch whether a value of the logs is the best so far."""

    monitor: str
    mode: str
    min_delta: float
    best: float

    def _set_monitor(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.monitor = monitor
        self.mode = choose(mode, "mode", ("auto", "min", "max"))
        self.min_delta = real(min_delta, "min_delta")
        rises = mode == "max" or (mode == "auto" and monitor.endswith("accuracy"))
        self._sign = -1 if rises else 1

    def on_train_begin(self, logs: Logs) -> None:
        self.best = self._sign * math.inf

    def _improved(self, logs: Logs) -> bool:
        """Whether the value beats `best` by more than `min_delta`; then it is the new `best`."""
        if self.monitor not in logs:
            raise ValueError(
                f"{type(self).__name__}: `monitor` is {self.monitor!r}, which is not in the logs; "
                f"{did_you_mean(self.monitor, logs)}; val_... needs validation data in fit"
            )
        value = logs[self.monitor]
        if not self._sign * value < self._sign * self.best - self.min_delta:  # NaN never improves
            return False
        self.best = value
        return True


class EarlyStopping(_Monitor):
    """Stop when a value has not improved for `patience` epochs.

    Parameters
    ----------
    monitor : str, default "val_loss"
    patience : int, default 0
        Epochs without improvement after which training stops (0 as 1: at the first).
    restore_best_weights : bool, default False
        At the end, give the model the weights of its best epoch.
    min_delta : float, default 0.0
        An improvement is more than this.
    mode : {"auto", "min", "max"}
        "auto" is "max" for what ends in "accuracy", else "min".

    Attributes
    ----------
    best : float
    best_epoch, stopped_epoch : int
        `stopped_epoch` is 0 if training was not stopped.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        restore_best_weights: bool = False,
        min_delta: float = 0.0,
        mode: str = "auto",
    ) -> None:
        self._set_monitor(monitor, mode, min_delta)
        self.patience = integer(patience, "patience", least=0)
        self.restore_best_weights = bool(restore_best_weights)

    def on_train_begin(self, logs: Logs) -> None:
        super().on_train_begin(logs)
        self.wait = self.best_epoch = self.stopped_epoch = 0
        self._best_weights: list[NDArray[Any]] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        improved = self._improved(logs)
        if improved:
            self.best_epoch = epoch
        if self.restore_best_weights and (improved or self._best_weights is None):
            self._best_weights = self.model.get_weights()
        self.wait = 0 if improved else self.wait + 1
        if self.wait >= max(self.patience, 1) and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)


class ModelCheckpoint(_Monitor):
    """Save the model after each epoch, or after each that is the best so far.

    Parameters
    ----------
    path : str or Path
        May hold fields, as in ``"signs-{epoch:02d}-{val_loss:.3f}.h5"``; `epoch` counts from 1.
    monitor : str, default "val_loss"
        Looked at only with `save_best_only`.
    save_best_only : bool, default False
    mode : {"auto", "min", "max"}
        As in :class:`EarlyStopping`.
    """

    def __init__(
        self,
        path: str | Path,
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        self.path = path
        self.save_best_only = bool(save_best_only)
        self._set_monitor(monitor, mode)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only and not self._improved(logs):
            return
        try:
            path = str(self.path).format(epoch=epoch + 1, **logs)
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"ModelCheckpoint: `path` is {str(self.path)!r}, which has a field that is not in "
                f"the logs; known: epoch, {', '.join(logs)}"
            ) from error
        self.model.save(path)


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when a value has not improved for `patience` epochs.

    Parameters
    ----------
    monitor : str, default "val_loss"
    factor : float in [0, 1), default 0.1
    patience : int, default 10
    mode : {"auto", "min", "max"}
        As in :class:`EarlyStopping`.
    min_delta : float, default 1e-4
        An improvement is more than this.
    cooldown : int, default 0
        Epochs after a reduction in which none is counted.
    min_lr : float, default 0.0
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self._set_monitor(monitor, mode, min_delta)
        self.factor = real(factor, "factor", below=1.0)
        self.patience = integer(patience, "patience", least=0)
        self.cooldown = integer(cooldown, "cooldown", least=0)
        self.min_lr = real(min_lr, "min_lr")

    def on_train_begin(self, logs: Logs) -> None:
        super().on_train_begin(logs)
        self.wait = self._cooling = 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        optimizer = self.model.optimizer
        logs["learning_rate"] = optimizer.learning_rate
        improved = self._improved(logs)
        self._cooling = max(self._cooling - 1, 0)
        self.wait = 0 if improved or self._cooling else self.wait + 1
        if self.wait >= max(self.patience, 1) and optimizer.learning_rate > self.min_lr:
            optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
            self.wait, self._cooling = 0, self.cooldown


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch.

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch)`` or ``schedule(epoch, learning_rate)``, the new learning rate.

    Examples
    --------
    >>> halved = LearningRateScheduler(lambda epoch: 0.01 * 0.5**epoch)
    """

    def __init__(self, schedule: Callable[..., float]) -> None:
        if not callable(schedule):
            raise TypeError(f"`schedule` is {schedule!r}; expected a function of the epoch")
        self.schedule = schedule
        try:
            inspect.signature(schedule).bind(0, 0.0)
            self._arguments = 2
        except TypeError:
            self._arguments = 1

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        optimizer = self.model.optimizer
        rate = self.schedule(*(epoch, optimizer.learning_rate)[: self._arguments])
        optimizer.learning_rate = real(rate, f"the learning rate scheduled for epoch {epoch}")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        logs["learning_rate"] = self.model.optimizer.learning_rate


class OneCycle(Callback):
    """One rise and one longer fall of the learning rate, minibatch by minibatch [1]_.

    Parameters
    ----------
    max_learning_rate : float
    warmup : float in [0, 1), default 0.3
        Share of the training in which the learning rate rises.
    start_divisor : float, default 25
        It starts at ``max_learning_rate / start_divisor``,
    end_divisor : float, default 1e4
        and ends at ``max_learning_rate / start_divisor / end_divisor``.

    Notes
    -----
    Both branches are half a cosine. The cycle spans epochs 0 to the last of `fit`; with an
    `initial_epoch` training enters it there.

    References
    ----------
    .. [1] Smith and Topin, "Super-Convergence", 2017, arXiv:1708.07120.
    """

    def __init__(
        self,
        max_learning_rate: float,
        warmup: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
    ) -> None:
        self.max_learning_rate = real(max_learning_rate, "max_learning_rate")
        self.warmup = real(warmup, "warmup", below=1.0)
        self.start_divisor = real(start_divisor, "start_divisor", least=1.0)
        self.end_divisor = real(end_divisor, "end_divisor", least=1.0)

    def learning_rate(self, done: float) -> float:
        """The learning rate when the share `done` in [0, 1] of the training is done.

        >>> OneCycle(1.0, warmup=0.25).learning_rate(0.25)
        1.0
        """
        low = self.max_learning_rate / self.start_divisor
        if done < self.warmup:
            start, end, share = low, self.max_learning_rate, done / self.warmup
        else:
            start, end = self.max_learning_rate, low / self.end_divisor
            share = (done - self.warmup) / (1 - self.warmup)
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    def _set(self, step: int) -> None:
        last = self.params["epochs"] * self.params["steps"] - 1
        self.model.optimizer.learning_rate = self.learning_rate(min(step / max(last, 1), 1.0))

    def on_train_begin(self, logs: Logs) -> None:
        self._step = self.params["initial_epoch"] * self.params["steps"]
        self._set(self._step)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        self._step += 1
        self._set(self._step)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        logs["learning_rate"] = self.model.optimizer.learning_rate


class CSVLogger(Callback):
    """Write the logs of each epoch as a row of a CSV file: epoch, loss, accuracy, ...

    Parameters
    ----------
    path : str or Path
    separator : str, default ","
    append : bool, default False
        Add rows to the file that is there, instead of starting it anew.
    """

    def __init__(self, path: str | Path, separator: str = ",", append: bool = False) -> None:
        self.path = path
        self.separator = separator
        self.append = bool(append)

    def on_train_begin(self, logs: Logs) -> None:
        self._names: list[str] | None = None
        if self.append and Path(self.path).exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                self._names = next(csv.reader(file, delimiter=self.separator), None)
        else:
            Path(self.path).write_text("", encoding="utf-8")  # an unwritable path fails here

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        row = {"epoch": epoch, **logs}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            if self._names is None:
                self._names = list(row)
                csv.writer(file, delimiter=self.separator).writerow(self._names)
            writer = csv.DictWriter(
                file, self._names, restval="NA", extrasaction="ignore", delimiter=self.separator
            )
            writer.writerow(row)


class TerminateOnNaN(Callback):
    """Stop the training at once when a minibatch's loss is NaN or infinite."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        if not math.isfinite(logs["loss"]):
            print(f"Minibatch {batch}: the loss is {logs['loss']}, training stops")
            self.model.stop_training = True


class ProgressLines(Callback):
    """One line an epoch: its number, seconds and logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        seconds = time.perf_counter() - self._start
        print(f"Epoch {epoch + 1}/{self.params['epochs']} - {seconds:.2f}s - {_words(logs)}")


class ProgressBar(Callback):
    """A bar of minibatches for each epoch, by tqdm."""

    def on_train_begin(self, logs: Logs) -> None:
        from tqdm.auto import tqdm

        self._tqdm = tqdm

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        title = f"Epoch {epoch + 1}/{self.params['epochs']}"
        self._bar = self._tqdm(total=self.params["steps"], desc=title, file=sys.stdout)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        self._bar.set_postfix_str(f"loss: {logs['loss']:.4f}", refresh=False)
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._bar.set_postfix_str(_words(logs))
        self._bar.close()


def _words(logs: Logs) -> str:
    return " - ".join(f"{name}: {value:.4g}" for name, value in logs.items())


def progress(verbose: str | int | bool) -> list[Callback]:
    """The display that `fit` shows: nothing (0), a bar (1), a line an epoch (2).

    Parameters
    ----------
    verbose : {"auto", 0, 1, 2}
        "auto" is 1 on a terminal and in a notebook, else 2.
    """
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2
    displays: dict[Any, list[type[Callback]]] = {0: [], 1: [ProgressBar], 2: [ProgressLines]}
    if verbose not in displays:
        raise ValueError(f"`verbose` is {verbose!r}; expected 'auto', 0, 1 or 2")
    return [display() for display in displays[verbose]]
