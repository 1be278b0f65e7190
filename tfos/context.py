"""TrainContext: what a user's train(ctx) is given."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from tfos.errors import UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.feeding.arrival import Arrival
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.schema import Manifest
from tfos.lake.run_directory import MODEL
from tfos.spec.roles import EVALUATOR
from tfos.training.custom import mean
from tfos.training.evaluator import Evaluator
from tfos.training.export import export_model
from tfos.training.fit import Fit, FitOptions
from tfos.training.loop import Loop
from tfos.training.outputs import Outputs
from tfos.training.programs import make_program
from tfos.training.runner import Runner
from tfos.training.serving import ServedFeatures, warn_of_export
from tfos.training.step import has_call, prepare
from tfos.training.validation import validation_of

if TYPE_CHECKING:
    from tfos.kv.client import Client
    from tfos.runtime.host import Host


class TrainContext:
    """The run, as train(ctx) sees it. Made by tfos; used from train()'s thread alone.

    role, index: this process's role. train() runs in the chief; under --strategy multi-worker in
    the other workers as well, in step with it; with --evaluator in the evaluator, too, where fit()
    evaluates checkpoints instead.
    num_workers, num_ps: as asked for; 0 where the strategy has none.
    is_chief: whether this process checkpoints, exports and reports; elsewhere these do nothing.
    attempt: 1, and one more for each time the roles were launched again.
    strategy: the tf.distribute strategy; make and compile models in its scope().
    coordinator: the ClusterCoordinator under --strategy ps, else None.
    params: what --param K=V gave, the V read as JSON where it is JSON (3, true, [1, 2]) and as text
    elsewhere; or run(params={...}), as it is.
    log_dir, output_dir: local directories for files of TensorBoard, and all others, e.g. of
    CSVLogger and ModelCheckpoint. They are <run>/events and <run>/output of the lake, or come to be
    there at the end of each epoch and of train(), as the chief has them; a run that goes on finds
    them as they were.
    checkpoint: for custom loops, see Checkpointer in
    tfos.fault.checkpoint.checkpointer; fit does it by itself.
    """

    def __init__(self, host: Host, runner: Runner) -> None:
        """Fetches the newest checkpoint, and files of callbacks; may take long."""
        self.role, self.index = host.task.role, host.task.index
        self.num_workers = getattr(host.spec.topology, "num_workers", 0)
        self.num_ps = getattr(host.spec.topology, "num_ps", 0)
        self.is_chief = host.is_chief
        self.attempt = host.attempt
        self.params = host.spec.params
        self.strategy = runner.strategy
        self.coordinator = runner.coordinator
        self._runner = runner
        self._lake = host.lake
        self._reader = host.reader()
        self._ledger = host.ledger
        self._scratch = host.scratch
        self._reports = host.reports
        self._has_evaluator = host.spec.evaluator
        self.checkpoint = Checkpointer(
            host.store,
            host.scratch,
            host.spec.checkpoint_secs,
            runner.io_device,
            (host.ledger.as_json, host.ledger.restore),
            quiet=host.reports.quiet,
            on_save=runner.saves,
            on_commit=lambda: host.reports.saved(self.checkpoint.stats),
            parts=runner.parts,
        )
        if self.role != EVALUATOR:  # which has that of each checkpoint
            runner.continue_from(self.checkpoint)
        host.reports.saved(self.checkpoint.stats)
        self._outputs = Outputs(host.lake, host.scratch, self.is_chief or self.role == EVALUATOR)
        self.log_dir, self.output_dir = self._outputs.events, self._outputs.output
        self._loop = Loop(runner, host.ledger, host.reports, self.checkpoint.step)
        self._fits = 0
        self._datasets: WeakKeyDictionary[keras.Model, FeedDataset] = WeakKeyDictionary()
        self._fitted: list[keras.Model] = []  # the first ones that differ, two at most
        self.reported: dict[str, Any] = {}
        self.model_uri: str | None = None

    def close(self) -> None:
        """Waits until the last checkpoint, and what callbacks wrote, is in the lake."""
        self.checkpoint.wait()
        self._outputs.upload()

    def dataset(
        self,
        name: str,
        batch_size: int,
        features: Sequence[str] | str | None = None,
        label: str | Sequence[str] | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> FeedDataset:
        """The feed `name` as batches: (dict of features, label[, weight]).

        batch_size: rows per step of one worker.
        features: the columns of the dict; all but label and weight when not given. A single name
        gives that column instead of a dict.
        label, weight: columns; without a label an element is the features alone. Several labels
        give a dict, as models with several outputs take it.
        shuffle: a new order each epoch, the same for the same seed.
        Iterating it gives one epoch, or this process's share of one where several train in step;
        `layer.adapt(ctx.dataset(...).whole())` sees all rows in each process.
        Raises LakeError for an unknown feed, FeedError for an unknown column.
        """
        return FeedDataset(
            self._arrival(name), batch_size, features, label, weight, shuffle, seed,
            replica=self._runner.replica, replicas=self._runner.replicas, on_rows=self._count_read,
        )  # fmt: skip

    def _arrival(self, feed: str) -> Arrival:
        def look() -> Manifest:
            return self._reader.arrived(feed)

        return Arrival(look(), look, self._reports.quiet)

    def _refuse_evaluator(self) -> None:
        if self.role == EVALUATOR:
            raise UsageError(
                "--evaluator evaluates what ctx.fit() trains, not what a loop of your own does:"
                " leave it out, and call ctx.evaluate() in the loop"
            )

    def check_fitted(self) -> None:
        """Raises UsageError in an evaluator whose train() has ended without a fit()."""
        if not self._fits:
            self._refuse_evaluator()

    def _count_read(self, feed: str, epoch: int, rows: int) -> None:
        self._ledger.read(feed, epoch, rows)
        self._reports.moved()

    def fit(
        self,
        model: keras.Model,
        dataset: FeedDataset,
        epochs: int = 1,
        validation: FeedDataset | str | float | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        steps_per_execution: int | None = None,
        *,
        steps_per_epoch: int | None = None,
        initial_epoch: int = 0,
        validation_freq: int | Sequence[int] = 1,
        class_weight: Mapping[int, float] | None = None,
        verbose: int | str = 0,
        evaluation_callbacks: Sequence[keras.callbacks.Callback] = (),
        validation_data: FeedDataset | str | None = None,
        validation_split: float = 0.0,
    ) -> keras.callbacks.History:
        """Trains a compiled Keras model, as Model.fit does, under any strategy. Blocks.

        validation: a dataset; or the name of a feed with the same columns; or the part of this
        dataset, above 0 and below 1, that is kept from the training: its last rows, before any
        shuffling. It is evaluated at the end of each epoch, or of those that validation_freq
        (a number, or a list of epochs from 1) names, as val_* in the logs. Keras's words for it are
        taken in its place: validation_data for a dataset or a name, validation_split for a part.
        callbacks: Keras callbacks. on_train_batch_* are called once per execution of several
        steps, with the metrics so far; setting model.stop_training ends the training there, or
        after the epoch. Where train() runs in several processes they are called in each, with the
        same logs; those that write files (ModelCheckpoint, CSVLogger, TensorBoard) in the chief.
        steps_per_execution: steps that a worker makes at a time; chosen when not given.
        steps_per_epoch: steps of one epoch, as many as the dataset has when not given; the next
        epoch goes on where it ends.
        initial_epoch: number of the first epoch, from 0; epochs is the number of the last.
        class_weight: class -> weight of its rows in the loss, times the rows' own weights.
        verbose: 1, or "auto": a progress bar in the chief's log; 2: a line per epoch.
        evaluation_callbacks: callbacks that look at the validation alone, as EarlyStopping on
        "val_auc" does. With --evaluator they are called there, at each checkpoint that it has
        evaluated, and `callbacks` get no val_*; when one stops the training, it ends with the epoch
        under way, or at its next checkpoint. Without one they are callbacks as others.
        Begins on a feed that is still being written (--overlap) where it can: then callbacks find
        None as params["steps"] in the first epoch.
        Warns, before the first step, when ctx.export() could not write this model.
        Saves a checkpoint at the end of each epoch where that is cheap (a tenth of the time at
        most), every --checkpoint-secs and at the end, and continues from
        the newest one when there is one: epochs counts those of earlier attempts as well.
        Raises UsageError for a model that cannot be trained so.
        """
        has_evaluator = self._has_evaluator
        options = FitOptions(
            epochs, callbacks if has_evaluator else [*callbacks, *evaluation_callbacks],
            steps_per_execution, steps_per_epoch, initial_epoch,
            validation_freq, class_weight, verbose,
        )  # fmt: skip
        given = dataset
        if not any(model is other for other in self._fitted):
            self._fitted = [*self._fitted, model][:2]
        validation = validation_of(validation, validation_data, validation_split)
        if isinstance(validation, int | float):
            dataset, validation = dataset.wait_complete().split(validation)
        elif isinstance(validation, str):
            validation = dataset.of(self._arrival(validation).wait_complete())
        self._runner.know(model)
        number = self._fits
        self._fits += 1
        if self.role == EVALUATOR:
            return self._evaluator().run(number, model, dataset, validation, evaluation_callbacks)

        def told_to_stop() -> bool:
            return has_evaluator and self._lake.evaluations()["stop"] == number

        fit = Fit(
            self._loop, self.checkpoint, f"fit{number}", model, dataset,
            None if has_evaluator else validation, options, told_to_stop, self._publish,
        )  # fmt: skip
        if self.is_chief and self._datasets.get(model) is not given:
            warn_of_export(model, ServedFeatures.of(given))
        self._datasets[model] = given
        return self._runner.together(
            "fit",
            fit.run,
            fit.unit,
            lambda history: (fit.record(history), []),
            lambda record, _: fit.history(record),
        )

    def _publish(self) -> None:
        with self._reports.quiet():
            self._outputs.upload()

    def _evaluator(self) -> Evaluator:
        def open_newest() -> Checkpointer:
            store = CheckpointStore(self._lake, is_owner=False)
            return Checkpointer(store, self._scratch, math.inf)

        return Evaluator(
            self._lake, self._loop, open_newest, f"{self.log_dir}/evaluator", self._publish
        )

    def evaluate(self, model: keras.Model, dataset: FeedDataset) -> dict[str, float]:
        """The loss and metrics of a compiled model over all rows of a dataset, by name. Blocks."""
        self._datasets.setdefault(model, dataset)
        self._runner.know(model)
        step = prepare(model, dataset.wait_complete(), self._runner, "test_step")
        program = make_program(step, dataset, self._runner)
        return self._runner.together(
            "evaluate",
            lambda: self._loop.evaluate(program, dataset),
            lambda unit: program.run(unit.bounds, unit.order),
            lambda logs: (logs, []),
            lambda logs, _: logs,
        )

    def predict(self, model: keras.Model, dataset: FeedDataset) -> Any:
        """The model's outputs for all rows of a dataset, in the order of the feed. Blocks.

        Returns a NumPy array [rows, ...], or the model's structure of such; all of it in this
        process's memory: for more rows export the model and use tfos.predict().
        """
        self._datasets.setdefault(model, dataset)
        self._runner.know(model)
        program = self._loop.prepare_predict(model, dataset)
        return self._runner.together(
            "predict",
            lambda: self._loop.predict(program, dataset),
            lambda unit: program.run(unit.bounds, unit.order),
            lambda outputs: ({}, keras.tree.flatten(outputs)),
            lambda _, arrays: program.structured(arrays)[0],
        )

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean of a batch's per-row losses, for the gradients of a step of your own.

        Use it instead of tf.reduce_mean inside strategy.run: where processes train in step it is
        this process's part, sum(values) / rows of all of them, and optimizers add up the gradients.
        """
        return mean(values, self._runner.replicas)

    def run_epoch(
        self, step: Callable[..., tf.Tensor], dataset: FeedDataset, epoch: int = 0
    ) -> float:
        """Calls `step(features, label[, weight])` for every batch of one epoch, on the workers.

        Its rows count as trained on, unlike those that a `for` loop over the dataset reads.

        step: TensorFlow code that returns the batch's scalar loss, made with ctx.mean(); it is
        traced once and runs inside strategy.run. Returns the mean loss over the rows. Blocks until
        all are done. Under --strategy kv it is called as it is, by the workers, with NumPy arrays:
        it uses ctx.kv, and returns a number or None.
        """
        self._refuse_evaluator()
        program = self._loop.prepare_epoch(step, dataset)
        loss: float = self._runner.together(
            "epoch",
            lambda: self._loop.run_epoch(program, dataset, epoch),
            lambda unit: program.run(unit.bounds, unit.order),
            lambda loss: ({"loss": loss}, []),
            lambda told, _: told["loss"],
        )
        self._publish()
        return loss

    def export(self, model: keras.Model, dataset: FeedDataset | None = None) -> str:
        """Writes `model` as SavedModel and Keras file to <run>/model; returns its URI.

        The model takes the columns of the feed: what dataset.map() makes of the features before the
        model sees them is done there as well. Several outputs keep their names.
        dataset: gives names and types of the inputs, and map(); when not given, the one that the
        model was last given to fit, or first to evaluate or predict. A second call replaces the
        first's model.
        Raises UsageError for a model that cannot be served, e.g. when what map() makes of the
        features depends on the label.
        """
        dataset = dataset or self._datasets.get(model)
        if dataset is None:
            raise UsageError("export(model) cannot know the model's inputs: pass dataset=")
        if not self.is_chief:
            return self._lake.uri(MODEL)
        with self._reports.quiet(), self._contents(model):
            self.model_uri = export_model(
                model,
                ServedFeatures.of(dataset),
                self._lake,
                self._scratch,
                self._runner.io_device,
                self.checkpoint.fence,
            )
        return self.model_uri

    def _contents(self, model: keras.Model) -> AbstractContextManager[None]:
        """The model has the rows of its tables here meanwhile."""
        store = self._runner.store_of(model)
        if store is None:
            return contextlib.nullcontext()
        from tfos.training.stored.contents import contents_of

        return contents_of(model, store)

    def export_by_itself(self) -> None:
        """Exports the one model that fit() was given, where train() has exported none.

        Not one that has no call(), of which nobody asked for an export; fit() has said so.
        """
        if self.model_uri is None and len(self._fitted) == 1 and has_call(self._fitted[0]):
            self.export(self._fitted[0])

    @property
    def kv(self) -> Client:
        """The run's key-value store, under --strategy kv, and, in this process, under single.

        See docs/KV.md. A thread of your own needs a client of its own.
        """
        client = getattr(self._runner, "client", None)
        if client is None:
            raise UsageError("ctx.kv: use --strategy kv or single, others have no store")
        return client

    def report(self, **metrics: Any) -> None:
        """Adds JSON-able values to the metrics of the run's result.

        It counts as progress, also without values: a loop of your own that takes longer than
        --hang-secs for an epoch calls it now and then.
        """
        self.reported.update(metrics)
        self._reports.moved()
