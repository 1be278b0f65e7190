"""TrainContext: what a user's train(ctx) is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfos.errors import UsageError
from tfos.fault.checkpoint import Checkpointer
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.lake import Lake
from tfos.training.export import export_model
from tfos.training.loop import Trainer
from tfos.training.runner import Reports, Runner


@dataclass(frozen=True)
class Place:
    """Where a process stands in its run: the constant attributes of a TrainContext."""

    role: str
    index: int
    num_workers: int
    num_ps: int
    attempt: int
    params: Mapping[str, Any]
    log_dir: str


class TrainContext:
    """The run, as train(ctx) sees it. Made by tfos; used from train()'s thread alone.

    role, index: this process's role; train() runs in the chief.
    num_workers, num_ps: as asked for; both 0 under --strategy single.
    is_chief: whether this process checkpoints, exports and reports.
    attempt: 1, and one more for each time the roles were launched again.
    strategy: the tf.distribute strategy; make and compile models in its scope().
    coordinator: the ClusterCoordinator under --strategy ps, else None.
    params: what --param K=V gave (text), or run(params={...}).
    log_dir: directory in the lake for TensorBoard.
    checkpoint: for custom loops, see tfos.fault.checkpoint.Checkpointer; fit does it by itself.
    """

    def __init__(
        self,
        place: Place,
        runner: Runner,
        lake: Lake,
        reader: FeedReader,
        checkpoint: Checkpointer,
        ledger: Ledger,
        scratch: str,
        reports: Reports,
    ) -> None:
        self.role = place.role
        self.index = place.index
        self.num_workers = place.num_workers
        self.num_ps = place.num_ps
        self.is_chief = place.role == "chief"
        self.attempt = place.attempt
        self.params = place.params
        self.log_dir = place.log_dir
        self.strategy = runner.strategy
        self.coordinator = runner.coordinator
        self.checkpoint = checkpoint
        self._runner = runner
        self._lake = lake
        self._reader = reader
        self._ledger = ledger
        self._scratch = scratch
        self._trainer = Trainer(runner, checkpoint, ledger, reports)
        self._reports = reports
        self._datasets: dict[int, FeedDataset] = {}
        self.reported: dict[str, Any] = {}
        self.model_uri: str | None = None

    def dataset(
        self,
        name: str,
        batch_size: int,
        features: Sequence[str] | None = None,
        label: str | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> FeedDataset:
        """The feed `name` as batches: (dict of features, label[, weight]).

        batch_size: rows per step of one worker.
        features: the columns of the dict; all but label and weight when not given.
        label, weight: columns; without a label an element is the dict alone.
        shuffle: a new order each epoch, the same for the same seed.
        Raises LakeError for an unknown feed, FeedError for an unknown column.
        """
        return FeedDataset(
            self._reader.manifest(name), batch_size, features, label, weight, shuffle, seed,
            on_rows=self._count_rows,
        )  # fmt: skip

    def _count_rows(self, feed: str, epoch: int, rows: int) -> None:
        self._ledger.add(feed, epoch, rows)
        self._reports.moved()

    def fit(
        self,
        model: keras.Model,
        dataset: FeedDataset,
        epochs: int = 1,
        validation: FeedDataset | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        steps_per_execution: int | None = None,
    ) -> keras.callbacks.History:
        """Trains a compiled Keras model, as Model.fit does, under any strategy. Blocks.

        validation: evaluated over all its rows at the end of each epoch, as val_* in the logs.
        callbacks: Keras callbacks. on_train_batch_* are called once per execution of several
        steps, with the metrics so far; setting model.stop_training ends after the epoch.
        steps_per_execution: steps that a worker makes at a time; chosen when not given.
        Saves a checkpoint at the end of each epoch and every --checkpoint-secs, and continues from
        the newest one when there is one: epochs counts those of earlier attempts as well.
        Raises UsageError for a model that cannot be trained so.
        """
        if epochs < 0:
            raise UsageError(f"epochs is {epochs}: use 0 or more")
        self._datasets[id(model)] = dataset
        return self._trainer.fit(model, dataset, epochs, validation, callbacks, steps_per_execution)

    def evaluate(self, model: keras.Model, dataset: FeedDataset) -> dict[str, float]:
        """The loss and metrics of a compiled model over all rows of a dataset, by name. Blocks."""
        self._datasets.setdefault(id(model), dataset)
        return self._trainer.evaluate(model, dataset)

    def run_epoch(
        self, step: Callable[..., tf.Tensor], dataset: FeedDataset, epoch: int = 0
    ) -> float:
        """Calls `step(features, label[, weight])` for every batch of one epoch, on the workers.

        step: TensorFlow code that returns the batch's scalar loss; it is traced once and runs
        inside strategy.run. Returns the mean loss over the rows. Blocks until all are done.
        """
        return self._trainer.run_epoch(step, dataset, epoch)

    def export(self, model: keras.Model, dataset: FeedDataset | None = None) -> str:
        """Writes `model` as SavedModel and Keras file to <run>/model; returns its URI.

        dataset: gives names and types of the inputs; needed only when the model has seen neither
        fit nor evaluate. A second call replaces the first's model.
        """
        dataset = dataset or self._datasets.get(id(model))
        if dataset is None:
            raise UsageError("export(model) cannot know the model's inputs: pass dataset=")
        io_device = chief_device(self._runner)
        with self._reports.quiet():
            self.model_uri = export_model(
                model, dataset.feature_columns, self._lake, self._scratch, io_device
            )
        return self.model_uri

    def report(self, **metrics: Any) -> None:
        """Adds JSON-able values to the metrics of the run's result.

        It counts as progress, also without values: a loop of your own that takes longer than
        --hang-secs for an epoch calls it now and then.
        """
        self.reported.update(metrics)
        self._reports.moved()


def chief_device(runner: Runner) -> str | None:
    """The device on which the chief's own files are written; None where there is no other."""
    return "/job:chief/replica:0/task:0/device:CPU:0" if runner.coordinator is not None else None
