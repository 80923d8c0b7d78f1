"""One run of `pyconv train`: a network of the zoo on a data set, kept in a folder as it goes.

While it trains, the network takes images divided by 255, once, before the first epoch. In the file
stands the same network behind a `Rescaling` layer: it takes the bytes of an image as they are. Its
metadata hold the names of the classes, the settings, and the cost and accuracy of every epoch.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import zoo
from .callbacks import Callback, LearningRateScheduler, Logs
from .course import application
from .data import Dataset, Images
from .layers import Layer, Rescaling
from .model import Sequential, load_model
from .optimizers import Adam

SECONDS_BETWEEN_SAVES = 10.0


@dataclass(frozen=True)
class Recipe:
    """How a network of the zoo is trained where no option says otherwise.

    In epoch e the learning rate is ``learning_rate / (1 + decay * e)``: it does not look ahead to
    the last epoch, so that a resumed run is the same. With `assignment`, costs are counted and
    printed as the assignment does it, and the seed 0 stands for its weights and its order of
    minibatches.
    """

    network: Callable[..., Sequential]
    epochs: int
    batch_size: int
    learning_rate: float
    decay: float
    epsilon: float  # Adam's
    assignment: bool = False


MODELS = {
    "signs": Recipe(zoo.signs_convnet, 100, 64, 0.009, 0, 1e-8, assignment=True),
    "lenet5": Recipe(zoo.lenet5, 3, 64, 0.002, 2, 1e-7),
    "vgg-small": Recipe(zoo.vgg_small, 10, 64, 0.001, 0.2, 1e-7),
    "resnet20": Recipe(zoo.resnet20, 15, 64, 0.003, 0.2, 1e-7),
}
DEFAULT_MODEL = "signs"


@dataclass(frozen=True)
class Settings:
    """What makes a run what it is, and cannot change when it is resumed.

    Attributes
    ----------
    model : str
        A key of `MODELS`.
    batch_size : int
    learning_rate : float
        Of the first epoch.
    seed : int
        Of the initial weights and of the order of the examples.
    images : int
        Number of training images.
    """

    model: str
    batch_size: int
    learning_rate: float
    seed: int
    images: int


class Run:
    """A network in training, and the files that it leaves in a folder.

    Parameters
    ----------
    settings : Settings
    data : Dataset
    folder : Path
        Must exist; gets `model.h5` and `history.csv`.
    saved : Sequential, optional
        The network in the file of a run with these settings, to go on with.

    Attributes
    ----------
    network : Sequential
        Takes images as `scaled` makes them.
    costs, accuracies : list of float
        Of the training, one an epoch.
    saved_epochs : int
        Epochs that the files know of.
    """

    def __init__(
        self, settings: Settings, data: Dataset, folder: Path, saved: Sequential | None = None
    ) -> None:
        self.settings, self.recipe = settings, MODELS[settings.model]
        self.data, self.folder = data, folder
        self.costs: list[float] = []
        self.accuracies: list[float] = []
        if saved is None:
            self.network = self._new_network()
        else:
            self.network = _rebuilt(saved, _twins(saved.layers[1:]))
            self.costs += saved.metadata["costs"]
            self.accuracies += saved.metadata["accuracies"]
        self.saved_epochs = len(self.costs)
        self._checkpoint: Sequential | None = None
        self._saved_at = -math.inf

    @classmethod
    def begin(cls, folder: Path, data: Dataset, **options: Any) -> Run:
        """A new run.

        Parameters
        ----------
        folder, data : see :class:`Run`
        **options
            Settings; where one is None or missing, the model's recipe decides.
        """
        given = _given(options)
        model = given.pop("model", DEFAULT_MODEL)
        recipe = MODELS[model]
        usual = Settings(model, recipe.batch_size, recipe.learning_rate, 0, len(data.x_train))
        return cls(replace(usual, **given), data, folder)

    @classmethod
    def resume(cls, folder: Path, data: Dataset, **options: Any) -> Run:
        """The run that `folder` holds.

        Parameters
        ----------
        folder, data : see :class:`Run`
        **options
            Settings that the caller expects; None leaves it to the file.

        Raises
        ------
        FileNotFoundError
            If the folder holds no model.
        ValueError
            If its model was not written by a run, or by one with other settings or data.
        """
        path = folder / "model.h5"
        if not path.exists():
            raise FileNotFoundError(f"{path}: missing, so there is no run to resume")
        saved = load_model(path)
        if "settings" not in saved.metadata:
            raise ValueError(f"{path}: was not written by `pyconv train`, which could resume it")
        settings = Settings(**saved.metadata["settings"])
        facts = asdict(settings) | {
            "image shape": saved.input_shape,
            "classes": tuple(saved.metadata["classes"]),
        }
        asked = _given(options) | {
            "images": len(data.x_train),
            "image shape": data.x_train.shape[1:],
            "classes": data.classes,
        }
        for name, value in asked.items():
            if value != facts[name]:
                raise ValueError(
                    f"{path}: cannot be resumed with {name} {value}, since its run has "
                    f"{facts[name]}"
                )
        return cls(settings, data, folder, saved)

    def _new_network(self) -> Sequential:
        shape = (len(self.data.classes), self.data.x_train.shape[1:])
        network = self.recipe.network(*shape, seed=self.settings.seed)
        if self._as_assigned() and shape == (application.NUM_CLASSES, application.INPUT_SHAPE):
            network.set_weights(application.assignment_weights())
        network.compile(Adam(self.settings.learning_rate, epsilon=self.recipe.epsilon))
        return network

    def _as_assigned(self) -> bool:
        return self.recipe.assignment and self.settings.seed == 0

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The order of the examples, a function of the epoch so that a run can be resumed."""
        if self._as_assigned():
            return application.minibatch_order(epoch, self.settings.images)
        return np.random.default_rng((self.settings.seed, epoch)).permutation(self.settings.images)

    def fit(self, epochs: int, *, quiet: bool) -> None:
        """Train until `epochs` epochs are done in all, and save what the last whole one reached.

        Raises
        ------
        ValueError
            If the cost is no longer a number.
        KeyboardInterrupt
            On Ctrl-C. It is saved then, too.
        """
        schedule = LearningRateScheduler(
            lambda epoch: self.settings.learning_rate / (1 + self.recipe.decay * epoch)
        )
        cost = None
        if self.recipe.assignment:
            cost = application.AssignmentCost(
                self.settings.batch_size, self.settings.images, print_cost=not quiet
            )
        try:
            self.network.fit(
                scaled(self.data.x_train),
                self.data.y_train,
                batch_size=self.settings.batch_size,
                epochs=epochs,
                initial_epoch=len(self.costs),
                shuffle=self._order,
                callbacks=[schedule, *([cost] if cost else []), _Recorder(self, cost)],
                verbose=0 if quiet or cost else "auto",
            )
        finally:
            self.save()

    def end_epoch(self, cost: float, accuracy: float) -> None:
        """Take down an epoch, and save the run if that is long ago."""
        if not math.isfinite(cost):
            raise ValueError(
                f"the cost of epoch {len(self.costs)} is {cost}; a lower learning rate than "
                f"{self.settings.learning_rate:g} may help"
            )
        self.costs.append(cost)
        self.accuracies.append(accuracy)
        checkpoint = _rebuilt(self.network, [Rescaling(1 / 255), *_twins(self.network.layers)])
        checkpoint.metadata = {
            "classes": self.data.classes,
            "settings": asdict(self.settings),
            "costs": self.costs.copy(),
            "accuracies": self.accuracies.copy(),
        }
        self._checkpoint = checkpoint
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write `model.h5` and `history.csv` as of the last whole epoch, if they are older."""
        if self._checkpoint is None:
            return
        self._checkpoint.save(self.folder / "model.h5")
        costs, accuracies = (self._checkpoint.metadata[name] for name in ("costs", "accuracies"))
        part = self.folder / ".history.csv.part"
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("epoch", "cost", "accuracy"))
            writer.writerows(zip(range(len(costs)), costs, accuracies, strict=True))
        os.replace(part, self.folder / "history.csv")
        self.saved_epochs = len(costs)
        self._checkpoint, self._saved_at = None, time.monotonic()


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


class _Recorder(Callback):
    """Tells the run of every epoch that ends."""

    def __init__(self, run: Run, cost: application.AssignmentCost | None) -> None:
        self.run, self.cost = run, cost

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.run.end_epoch(self.cost.costs[-1] if self.cost else logs["loss"], logs["accuracy"])


def scaled(images: Images) -> NDArray[np.float32]:
    """Bytes divided by 255; the bits that the assignment's float64 gives when it feeds float32."""
    return np.divide(images, np.float32(255), dtype=np.float32)


def _twins(layers: Iterable[Layer]) -> list[Layer]:
    """New layers like these."""
    return [type(layer)(**layer.get_config()) for layer in layers]


def _rebuilt(model: Sequential, layers: list[Layer]) -> Sequential:
    """`model` as it stands, with other `layers` that have the same weights in the same order."""
    rebuilt = Sequential(
        layers, input_shape=model.input_shape, seed=model.seed, dtype=model.dtype.name
    )
    rebuilt.set_weights(model.get_weights())
    rebuilt.compile(copy.deepcopy(model.optimizer), model.loss, model.metrics)
    rebuilt.rng.bit_generator.state = model.rng.bit_generator.state
    return rebuilt
