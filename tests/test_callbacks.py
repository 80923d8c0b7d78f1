"""Callbacks: when they act, by scripted logs; and what `fit` tells them."""

import csv
import math

import numpy as np
import pytest

from pyconv.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LearningRateScheduler,
    ModelCheckpoint,
    OneCycle,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from pyconv.layers import Dense
from pyconv.model import Sequential, load_model
from pyconv.optimizers import SGD


class FakeModel:
    """What callbacks see of a model; its one weight is the number of the epoch."""

    def __init__(self):
        self.optimizer = SGD(1.0)
        self.stop_training = False
        self.weights = [np.array(-1)]
        self.saved = []

    def get_weights(self):
        return [w.copy() for w in self.weights]

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path):
        self.saved.append(path)


def run(callback, values, name="val_loss"):
    """Let `callback` see an epoch for each of `values`; the model, after as many as it allows."""
    callback.model, callback.params = FakeModel(), {"epochs": len(values), "steps": 1}
    callback.on_train_begin({})
    logs = {}
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch, {})
        callback.model.weights = [np.array(epoch)]
        logs = {name: value}
        callback.on_epoch_end(epoch, logs)
        if callback.model.stop_training:
            break
    callback.on_train_end(logs)
    return callback.model


@pytest.fixture
def model():
    """Two inputs, two classes, compiled."""
    model = Sequential([Dense(2)], input_shape=(2,), seed=0)
    model.compile(SGD(0.1))
    return model


X, Y = np.eye(2, dtype=np.float32).repeat(4, axis=0), np.arange(2).repeat(4)
NAN = math.nan


@pytest.mark.parametrize(
    ("options", "values", "stopped_epoch", "best_epoch"),
    [
        ({}, [3, 2, 1, 1, 0], 3, 2),
        ({"patience": 1}, [3, 2, 1, 1, 0], 3, 2),
        ({"patience": 2}, [3, 2, 4, 2, 1], 3, 1),
        ({"patience": 2}, [3, 2, 4, 1, 5, 0], 0, 5),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.8, 2.6, 1], 2, 0),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.4, 1.8, 1.6], 3, 2),
        ({"patience": 2}, [NAN, NAN, 1, 2, NAN, 0], 1, 0),
        ({"patience": 3}, [NAN, NAN, 1, 2, NAN, 0], 0, 5),
        ({"monitor": "val_accuracy"}, [0.1, 0.5, 0.4, 0.9], 2, 1),
        ({"monitor": "val_accuracy", "mode": "min"}, [0.5, 0.4, 0.6, 0.1], 2, 1),
        ({"mode": "max"}, [1, 2, 1, 3], 2, 1),
    ],
)
def test_early_stopping(options, values, stopped_epoch, best_epoch):
    stopper = EarlyStopping(restore_best_weights=True, **options)
    model = run(stopper, values, stopper.monitor)
    assert stopper.stopped_epoch == stopped_epoch
    assert stopper.best_epoch == best_epoch
    assert model.weights == [best_epoch]


def test_early_stopping_keeps_the_last_weights_unless_told():
    assert run(EarlyStopping(), [2, 1, 3]).weights == [2]


def test_early_stopping_forgets_the_run_before():
    stopper = EarlyStopping(patience=1)
    run(stopper, [0, 1])
    run(stopper, [9, 8, 7])
    assert (stopper.stopped_epoch, stopper.best) == (0, 7)


@pytest.mark.parametrize("callback", [EarlyStopping("val_los"), ReduceLROnPlateau("val_los")])
def test_unknown_monitor(callback):
    with pytest.raises(ValueError, match=r"`monitor` is 'val_los'.*did you mean 'val_loss'"):
        run(callback, [1])


def test_monitor_without_validation_data(model):
    with pytest.raises(ValueError, match=r"'val_loss'.*needs validation data"):
        model.fit(X, Y, callbacks=[EarlyStopping()], verbose=0)


@pytest.mark.parametrize(
    ("options", "values", "rates"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 2, 2], [1, 1, 1, 1, 0.1, 0.1]),
        ({"patience": 1, "factor": 0.5}, [3, 3, 3, 2, 2], [1, 1, 0.5, 0.25, 0.25]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3], [1, 1, 0.1, 0.1, 0.01]),
        ({"patience": 1, "factor": 0.5, "min_lr": 0.4}, [3, 3, 3, 3], [1, 1, 0.5, 0.4]),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2.4], [1, 1, 0.1]),
        ({"patience": 1, "mode": "max"}, [1, 2, 2, 3], [1, 1, 1, 0.1]),
    ],
)
def test_reduce_learning_rate_on_plateau(options, values, rates):
    """`rates` are those of the epochs themselves: a change counts from the next."""
    seen = []

    class Reduce(ReduceLROnPlateau):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, logs)
            seen.append(logs["learning_rate"])

    run(Reduce(**options), values)
    assert seen == pytest.approx(rates)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (lambda epoch: 0.1 * (epoch + 1), [0.1, 0.2, 0.3]),
        (lambda epoch, learning_rate: learning_rate / 2, [0.05, 0.025, 0.0125]),
    ],
)
def test_learning_rate_scheduler(schedule, rates, model):
    history = model.fit(X, Y, epochs=3, callbacks=[LearningRateScheduler(schedule)], verbose=0)
    assert history.history["learning_rate"] == pytest.approx(rates)


def test_learning_rate_scheduler_needs_a_number(model):
    scheduler = LearningRateScheduler(lambda epoch: "low")
    with pytest.raises(TypeError, match="scheduled for epoch 0` is 'low'"):
        model.fit(X, Y, callbacks=[scheduler], verbose=0)


def test_one_cycle(model):
    rates = []

    class Watch(Callback):
        def on_train_begin(self, logs):
            rates.append(self.model.optimizer.learning_rate)

        def on_batch_end(self, batch, logs):
            rates.append(self.model.optimizer.learning_rate)

    cycle = OneCycle(0.5, warmup=0.25, start_divisor=10, end_divisor=100)
    model.fit(X, Y, batch_size=1, epochs=5, callbacks=[cycle, Watch()], verbose=0)
    assert len(rates) == 41
    # The 40 steps have the shares 0 / 39, 1 / 39, ... 39 / 39 of the cycle.
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[10] == cycle.learning_rate(10 / 39) > 0.499
    assert rates[39] == rates[40] == pytest.approx(0.05 / 100)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert cycle.learning_rate(0.25) == 0.5
    assert cycle.learning_rate(0.625) == pytest.approx((0.5 + 0.0005) / 2)


def test_one_cycle_is_entered_where_training_goes_on(model):
    rates = []
    for initial_epoch in 0, 2:
        cycle = OneCycle(0.5)
        history = model.fit(
            X, Y, epochs=4, initial_epoch=initial_epoch, callbacks=[cycle], verbose=0
        )
        rates.append(history.history["learning_rate"])
    assert rates[0][2:] == rates[1]


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, ["1-3.0.h5", "2-1.5.h5", "3-2.0.h5", "4-1.0.h5"]),
        ({"save_best_only": True}, ["1-3.0.h5", "2-1.5.h5", "4-1.0.h5"]),
        ({"save_best_only": True, "mode": "max"}, ["1-3.0.h5"]),
    ],
)
def test_checkpoints(options, paths):
    checkpoint = ModelCheckpoint("{epoch}-{val_loss:.1f}.h5", **options)
    assert run(checkpoint, [3, 1.5, 2, 1]).saved == paths


def test_checkpoint_with_an_unknown_field():
    with pytest.raises(ValueError, match=r"`path` is '{acc}.h5'.*known: epoch, val_loss"):
        run(ModelCheckpoint("{acc}.h5"), [1])


def test_checkpoint_of_a_model_goes_on(model, tmp_path):
    path = tmp_path / "model.h5"
    order = {"shuffle": lambda epoch: np.random.default_rng(epoch).permutation(8), "verbose": 0}
    model.fit(X, Y, epochs=2, batch_size=3, callbacks=[ModelCheckpoint(path)], **order)
    resumed = load_model(path)
    for each in model, resumed:
        each.fit(X, Y, epochs=4, initial_epoch=2, batch_size=3, **order)
    assert (model.parameters == resumed.parameters).all()


def test_csv_logger(model, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old,rows\n")
    histories = []
    for initial_epoch, append in (0, False), (2, True):
        logger = CSVLogger(path, append=append)
        histories.append(
            model.fit(
                X,
                Y,
                epochs=initial_epoch + 2,
                initial_epoch=initial_epoch,
                validation_data=(X, Y),
                callbacks=[logger],
                verbose=0,
            ).history
        )
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    for name in "loss", "accuracy", "val_loss", "val_accuracy":
        assert [float(row[name]) for row in rows] == histories[0][name] + histories[1][name]


def test_csv_logger_keeps_its_columns(tmp_path):
    path = tmp_path / "log.csv"
    logger = CSVLogger(path, separator=";")
    logger.on_train_begin({})
    logger.on_epoch_end(0, {"loss": 2.0, "accuracy": 0.5})
    logger.on_epoch_end(1, {"loss": 1.0, "late": 7})
    assert path.read_text().split() == ["epoch;loss;accuracy", "0;2.0;0.5", "1;1.0;NA"]


def test_csv_logger_says_at_once_that_it_cannot_write(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        model.fit(X, Y, callbacks=[CSVLogger(tmp_path / "missing" / "log.csv")], verbose=0)


@pytest.mark.parametrize("loss", [NAN, math.inf])
def test_terminate_on_nan(loss, capsys):
    callback = TerminateOnNaN()
    callback.model = FakeModel()
    callback.on_batch_end(3, {"loss": 2.0})
    assert not callback.model.stop_training
    callback.on_batch_end(4, {"loss": loss})
    assert callback.model.stop_training
    assert f"Minibatch 4: the loss is {loss}" in capsys.readouterr().out


def test_terminate_on_nan_ends_the_epoch(model, capsys):
    x = X.copy()
    x[4] = NAN
    seen = []

    class Watch(Callback):
        def on_batch_end(self, batch, logs):
            seen.append(logs["loss"])

    hooks = [TerminateOnNaN(), Watch()]
    history = model.fit(x, Y, batch_size=2, epochs=3, shuffle=False, callbacks=hooks, verbose=0)
    assert len(seen) == 3
    assert math.isnan(seen[-1])
    assert history.epoch == [0]
    assert "training stops" in capsys.readouterr().out


def test_order_of_hooks(model):
    calls = []

    class Watch(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *args: calls.append((name, *args[:-1], *args[-1]))
            return super().__getattribute__(name)

    watch = Watch()
    model.fit(X, Y, batch_size=5, epochs=2, callbacks=[watch], verbose=0, validation_data=(X, Y))
    batch, val = ("loss", "accuracy"), ("loss", "accuracy", "val_loss", "val_accuracy")
    expected = [("on_train_begin",)]
    for epoch in 0, 1:
        expected += [
            ("on_epoch_begin", epoch),
            ("on_batch_end", 0, *batch),
            ("on_batch_end", 1, *batch),
            ("on_epoch_end", epoch, *val),
        ]
    assert calls == [*expected, ("on_train_end", *val)]
    assert watch.model is model
    assert watch.params == {"epochs": 2, "steps": 2, "initial_epoch": 0}


def test_a_callback_stops_after_its_epoch(model):
    class Stop(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.stop_training = epoch == 1

    history = model.fit(X, Y, epochs=5, callbacks=[Stop()], verbose=0)
    assert isinstance(history, History)
    assert history.epoch == [0, 1]
    assert len(model.fit(X, Y, epochs=2, verbose=0).epoch) == 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(patence=3), TypeError, "EarlyStopping.*did you mean 'patience'"),
        (lambda: EarlyStopping(patience=-1), ValueError, "`patience` is -1"),
        (lambda: EarlyStopping(mode="mx"), ValueError, "`mode` is 'mx'.*did you mean 'max'"),
        (lambda: ReduceLROnPlateau(factor=1.0), ValueError, "`factor` is 1.0"),
        (lambda: LearningRateScheduler(0.1), TypeError, "`schedule` is 0.1; expected a function"),
        (lambda: OneCycle(0.1, warmup=1), ValueError, "`warmup` is 1"),
        (lambda: OneCycle(0.1, end_divisor=0), ValueError, "`end_divisor` is 0"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
