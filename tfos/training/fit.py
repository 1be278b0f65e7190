"""fit for compiled Keras models: epochs, metrics, validation, callbacks, History, checkpoints.

Keras 3's own Model.fit does not run under the distributed strategies. This one does what it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfos.errors import UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.epochs import CompleteEpoch, EpochSource, GrowingEpoch
from tfos.feeding.plan import Take
from tfos.training.atomic import make_atomic
from tfos.training.callbacks import CallbackStates, called_in, check_stored, class_weights
from tfos.training.epoch import Epoch, FitState
from tfos.training.equality import check_equal
from tfos.training.loop import Loop
from tfos.training.program import Program
from tfos.training.programs import make_program
from tfos.training.step import prepare, prepare_test


@dataclass(frozen=True)
class FitOptions:
    """What fit() is asked for besides the model and its data; see TrainContext.fit."""

    epochs: int = 1
    callbacks: Sequence[keras.callbacks.Callback] = ()
    steps_per_execution: int | None = None
    steps_per_epoch: int | None = None
    initial_epoch: int = 0
    validation_freq: int | Sequence[int] = 1
    class_weight: Mapping[int, float] | None = None
    verbose: int | str = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 0), ("steps_per_execution", 1), ("steps_per_epoch", 1), ("initial_epoch", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}: use {least} or more")
        if isinstance(self.validation_freq, int) and self.validation_freq < 1:
            raise UsageError(f"validation_freq is {self.validation_freq}: use 1 or more")
        if self.verbose not in ("auto", 0, 1, 2):
            raise UsageError(f'verbose is {self.verbose!r}: use 0, 1, 2 or "auto"')

    @property
    def takes_the_first_epoch_whole(self) -> bool:
        """Whether the training begins with all of the dataset's first epoch."""
        return self.epochs > 0 and self.initial_epoch == 0 and self.steps_per_epoch is None

    def validates(self, epoch: int) -> bool:
        """Whether epoch number `epoch`, from 0, ends with a validation; as in Keras."""
        if isinstance(self.validation_freq, int):
            return (epoch + 1) % self.validation_freq == 0
        return epoch + 1 in self.validation_freq


class Fit:
    """One call of fit().

    publish: called when an epoch's callbacks are done, before the checkpoint that knows of them.
    """

    def __init__(
        self,
        loop: Loop,
        checkpointer: Checkpointer,
        section: str,
        model: keras.Model,
        dataset: FeedDataset,
        validation: FeedDataset | None,
        options: FitOptions,
        told_to_stop: Callable[[], bool] = lambda: False,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        if options.class_weight is not None:
            dataset = dataset.map(class_weights(options.class_weight))
        self._loop, self._checkpointer, self._section = loop, checkpointer, section
        self._model, self._dataset, self._validation = model, dataset, validation
        self._options = options
        self._told_to_stop, self._publish = told_to_stop, publish
        # whether the first epoch takes the rows as they come; all else waits for all of them
        self._begins_early = (
            not dataset.is_complete
            and dataset.can_begin_early
            and options.takes_the_first_epoch_whole
        )
        if not self._begins_early:
            dataset.wait_complete()
        # by what was taken before: of a dataset and of what is left of an epoch of it
        self._programs: dict[tuple[Take, ...], Program] = {}
        self._test: Program | None = None
        self._step = prepare(model, dataset, loop.runner)
        if validation is not None:
            self._test_step = prepare_test(model, validation, loop.runner)
        self._store = loop.runner.store_of(model)
        if self._store is not None:
            check_stored(options.callbacks)
        if loop.runner.is_asynchronous and self._store is None:
            for optimizer in self._step.optimizers:
                make_atomic(optimizer, loop.runner.parallelism)

    def run(self) -> keras.callbacks.History:
        """Blocks until all epochs are done."""
        model, options = self._model, self._options
        state = self._state = self._restored()
        source = self._next()
        was_over = source is None
        test = None
        if self._store is not None:
            # the store learns what updates the weights, and has them
            self._program(self._dataset.wait_complete() if source is None else source.dataset)
            self._refresh()
        if self._validation is not None:
            test = self._test_program(self._validation)
        history = keras.callbacks.History()
        mine = called_in(options.callbacks, self._loop.runner.replica)
        hooks = keras.callbacks.CallbackList(
            [*mine, history],
            add_progbar=options.verbose != 0 and self._loop.runner.replica == 0,
            model=model,
            epochs=options.epochs,
            steps=self._steps(source),
            verbose=options.verbose,
        )
        model.stop_training = False
        hooks.on_train_begin()
        history.history, history.epoch = dict(state.history), list(state.history_epochs)
        self._history = history
        self._callbacks = CallbackStates(options.callbacks)
        self._callbacks.restore(state.callbacks, self._checkpointer.arrays(self._section))
        if source is not None and self._dataset.replicas > 1:
            traced = self._program(source.dataset).function.get_concrete_function()
            check_equal(self._loop.runner, traced, model)
        logs: dict[str, float] = {}
        self._leave(is_due=True)
        while source is not None:
            epoch = state.epoch
            if hooks.params["steps"] != self._steps(source):
                hooks.set_params({**hooks.params, "steps": self._steps(source)})
            hooks.on_epoch_begin(epoch)
            logs = self._epoch(source, hooks).run()
            self._refresh()
            if test is not None and self._validation is not None and options.validates(epoch):
                hooks.on_test_begin()
                total = self._loop.evaluate(test, self._validation, epoch + 1, options.epochs)
                hooks.on_test_end(total)
                logs.update({f"val_{name}": value for name, value in total.items()})
            hooks.on_epoch_end(epoch, logs)
            state.end_epoch()
            # what a callback decides by looking elsewhere, the others must follow
            stop = model.stop_training or self._told_to_stop()
            state.stopped = any(self._loop.runner.gather(int(stop)))
            self._publish()
            self._leave(is_due=True)
            source = self._next()
            if source is None or self._checkpointer.affordable():
                self._save()
        if was_over and self._is_to_be_saved:
            self._save()
        if options.epochs > 0 and model.optimizer is not None:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        hooks.on_train_end(logs)
        return history

    @property
    def _is_to_be_saved(self) -> bool:
        """Whether the end of this fit is in no checkpoint: who was to make it has died."""
        following = f"fit{int(self._section.removeprefix('fit')) + 1}"
        return self._checkpointer.is_ahead and not self._checkpointer.has(following)

    def _restored(self) -> FitState:
        """The state of the checkpoint that the run continues from, or a new one."""
        options, dataset = self._options, self._dataset
        record = self._checkpointer.restore(self._section, **self._step.saved())
        self._loop.runner.regain(self._section, self._step.optimizers)
        steps = options.steps_per_epoch
        if record is None:
            state = FitState(options.initial_epoch, options.initial_epoch, order=dataset.order)
            if steps is not None and state.epoch:
                state.data_epoch, made = divmod(state.epoch * steps, dataset.steps_per_epoch)
                state.takes = [[dataset.replicas, made * dataset.step_rows]] if made else []
            return state
        state = FitState(**record)
        begun = f"the checkpoint at step {self._checkpointer.step} is in the middle of an epoch"
        if state.takes and state.order != dataset.order:
            raise UsageError(
                f"{begun} of {state.order}, which cannot go on with {dataset.order}: give dataset()"
                " the same feed, shuffle and seed again, and fit() the same part for validation"
            )
        if steps is not None and state.step >= steps and not state.is_made:
            raise UsageError(
                f"{begun}, {state.step} steps into epoch {state.epoch + 1}, and steps_per_epoch is"
                f" {steps}: use {state.step + 1} or more"
            )
        state.order = dataset.order
        return state

    def _next(self) -> EpochSource | None:
        """What is left of the next epoch; None when there is none. Blocks where it needs all rows.

        However the epoch was divided before: its rows are divided anew.
        """
        state, dataset, steps = self._state, self._dataset, self._options.steps_per_epoch
        if state.stopped or state.epoch >= self._options.epochs:
            return None
        if state.is_made:
            return CompleteEpoch(dataset.wait_complete(), state.position, 0)
        if self._begins_early and state.epoch == 0:
            return GrowingEpoch(dataset, state.position)
        dataset.wait_complete()
        return CompleteEpoch(dataset, state.position, steps and steps - state.step)

    def _steps(self, source: EpochSource | None) -> int | None:
        """Steps of all of the next epoch, where that is known."""
        if source is None or source.steps is None:
            return None
        return self._state.step + source.steps

    def _program(self, dataset: FeedDataset) -> Program:
        """Trains on a dataset; made as late as it is used, as the newest one has the optimizer."""
        if dataset.takes not in self._programs:
            program = make_program(self._step, dataset, self._loop.runner, self._loop.applied)
            self._programs[dataset.takes] = program
        return self._programs[dataset.takes]

    def _test_program(self, validation: FeedDataset) -> Program:
        if self._test is None:
            self._test = make_program(self._test_step, validation, self._loop.runner)
        return self._test

    def unit(self, unit: Any) -> list[np.ndarray]:
        """Makes a unit of this fit in another process than the one that runs it, see run()."""
        if unit.program == "test":
            assert self._validation is not None
            program = self._test_program(self._validation.wait_complete())
        else:
            takes = tuple((replicas, rows) for replicas, rows in unit.takes)
            program = self._program(self._dataset.wait_complete().without(takes) if takes else (
                self._dataset
            ))  # fmt: skip
        return program.run(unit.bounds, unit.order, unit.state)

    def history(self, record: Mapping[str, Any]) -> keras.callbacks.History:
        """As run() returned it in the process that ran it, from its record().

        Callbacks are told of the epochs, so that they are here as there; those that write files
        are not.
        """
        history = keras.callbacks.History()
        hooks = keras.callbacks.CallbackList(
            [*called_in(self._options.callbacks, 1), history], model=self._model
        )
        hooks.on_train_begin()
        logs: dict[str, float] = {}
        validated = itertools.count()
        for number, epoch in enumerate(record["epoch"]):
            hooks.on_epoch_begin(epoch)
            place = next(validated) if self._options.validates(epoch) else None
            logs = {}
            for name, values in record["history"].items():
                at = place if name.startswith("val_") else number
                if at is not None and at < len(values):
                    logs[name] = values[at]
            hooks.on_epoch_end(epoch, logs)
        hooks.on_train_end(logs)
        history.history, history.epoch = record["history"], record["epoch"]
        return history

    @staticmethod
    def record(history: keras.callbacks.History) -> dict[str, Any]:
        """JSON."""
        values = {name: np.asarray(each).tolist() for name, each in history.history.items()}
        return {"history": values, "epoch": list(history.epoch)}

    def _epoch(self, source: EpochSource, hooks: keras.callbacks.CallbackList) -> Epoch:
        compiled = int(self._model.steps_per_execution)
        unit_steps = self._options.steps_per_execution or (compiled if compiled > 1 else None)
        return Epoch(
            self._loop, self._model, source, self._state, self._program, hooks,
            self._options.epochs, unit_steps, self._save, self._checkpointer.due,
            # where several are in step, they agree on it at the end of the epoch
            self._told_to_stop if self._dataset.replicas == 1 else lambda: False, self._leave,
        )  # fmt: skip

    def _refresh(self) -> None:
        """Callbacks and checkpoints see the weights as they are in the store."""
        if self._store is not None:
            self._store.refresh(self._model)

    def _save(self) -> None:
        self._refresh()
        state, arrays = self._told()
        self._checkpointer.save(self._loop.steps, state, self._section, arrays)

    def _told(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The state as JSON, and the arrays of callbacks, as they are now."""
        state = self._state
        state.callbacks, arrays = self._callbacks.get()
        state.history_epochs = list(self._history.epoch)
        state.history = {
            name: np.asarray(values).tolist() for name, values in self._history.history.items()
        }
        return vars(state), arrays

    def _leave(self, is_due: bool = False) -> None:
        self._loop.runner.leave(
            self._checkpointer, self._loop.steps, self._section, self._told,
            self._step.optimizers, is_due,
        )  # fmt: skip
