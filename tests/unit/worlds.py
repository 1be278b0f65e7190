"""Runs in one process, without Spark: a lake, a reader, and contexts that train in it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
from zoo import BATCH

from tfos.context import TrainContext
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.lake.run_directory import RunDirectory
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task
from tfos.training.single import SingleRunner


class Heard:
    """Reports that keep what they were told, in order: progress dicts, and "quiet", "loud"."""

    def __init__(self):
        self.all = []

    def progress(self, progress):
        self.all.append(progress)

    def moved(self):
        self.all.append("moved")

    def saved(self, stats):
        """Not kept: when depends on a thread."""

    @contextlib.contextmanager
    def quiet(self):
        self.all.append("quiet")
        yield
        self.all.append("loud")


class World:
    """One run's lake; each context() is a new process's beginning in it."""

    def __init__(self, reader: FeedReader, root: Path, lake: RunDirectory | None = None):
        self.reader = reader
        self.root = root
        self.lake = lake or RunDirectory(str(root / "lake"), "run")
        self.scratch = str(root)
        self.heard = Heard()

    def dataset(self, name="train", batch_size=BATCH, **options):
        options = {"features": ["x"], "label": "y", "shuffle": False, **options}
        return FeedDataset(self.reader.manifest(name), batch_size, **options)

    def context(self, every_secs=1e9, runner=None):
        """every_secs: 0 for a checkpoint after every unit, however long the last one's upload."""
        self.ledger = Ledger()
        host = SimpleNamespace(
            task=Task("chief", 0),
            is_chief=True,
            attempt=1,
            spec=JobSpec.of("single", checkpoint_secs=every_secs or 1e-9),
            lake=self.lake,
            scratch=self.scratch,
            ledger=self.ledger,
            store=CheckpointStore(self.lake),
            reports=self.heard,
            reader=lambda: self.reader,
        )
        context = TrainContext(host, runner or SingleRunner())
        self.saver = saver = context.checkpoint
        if not every_secs:
            is_due = saver.due
            saver.due = lambda: saver.wait() or is_due()
        return context

    @property
    def progress(self):
        return [item for item in self.heard.all if isinstance(item, dict)]

    @property
    def trained(self):
        return {feed: record["rows_trained"] for feed, record in self.ledger.as_json().items()}

    def fit(self, model, epochs=1, *, every_secs=1e9, dataset=None, **options):
        """fit() of a new process; where no dataset is given, on the feed "train", in order.

        In units of one step, so that callbacks are called for each.
        """
        options.setdefault("steps_per_execution", 1)
        context = self.context(every_secs)
        try:
            return context.fit(model, dataset or self.dataset(), epochs, **options)
        finally:
            self.saver.wait()


class Interrupted(Exception):
    """Raised by the tests' callbacks in place of a crash."""


def interrupt(**when):
    """A callback that raises in `when`: on_epoch_begin=1, on_train_batch_end=4."""
    ((hook, number),) = when.items()
    calls = iter(range(number + 1))

    def raising(*args, **logs):
        if next(calls) == number:
            raise Interrupted

    return keras.callbacks.LambdaCallback(**{hook: raising})


class Halving(keras.callbacks.Callback):
    """A callback of one's own: reads logs, changes the model's optimizer and weights."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["loss"])
        self.model.layers[-1].bias.assign_add([0.1 * logs["val_mae"]])
        logs["seen"] = float(len(self.seen))


def assert_same_weights(one, other, tolerance):
    assert len(one.weights) == len(other.weights) > 0
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=a.path)


def assert_same_history(one, other, tolerance=1e-5):
    assert set(one.history) == set(other.history)
    assert one.epoch == other.epoch
    for name, values in one.history.items():
        np.testing.assert_allclose(values, other.history[name], tolerance, tolerance, err_msg=name)
