"""fit for compiled Keras models: epochs, metrics, validation, callbacks, History, checkpoints.

Keras 3's own Model.fit does not run under the distributed strategies. This one does what it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfos.errors import UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.feeding.dataset import ARRIVAL_SECS, FeedDataset
from tfos.training.atomic import make_atomic
from tfos.training.callbacks import CallbackStates, called_in, class_weights
from tfos.training.loop import Loop, Part, never
from tfos.training.program import Program, prepare, random_state


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


@dataclass
class _State:
    """How far a fit is: what a checkpoint says of it besides the weights.

    epoch: epochs done. step: steps done in the next one. totals: sums of the metrics over them.
    division: [batch_size, replicas, steps per epoch], on which the meaning of `step` depends; 0
    steps when that was not known, in the first epoch of a feed that was not complete.
    """

    epoch: int
    division: list[int] = field(default_factory=list)
    step: int = 0
    totals: list[Any] | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    history_epochs: list[int] = field(default_factory=list)
    stopped: bool = False
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


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
        publish: Callable[[], None] = never,
    ) -> None:
        if options.class_weight is not None:
            dataset = dataset.map(class_weights(options.class_weight))
        self._loop, self._checkpointer, self._section = loop, checkpointer, section
        self._model, self._dataset, self._validation = model, dataset, validation
        self._options = options
        self._told_to_stop, self._publish = told_to_stop, publish
        # whether the first epoch takes the rows as they come; all else waits for all of them
        self._arriving = (
            dataset.is_arriving and dataset.can_begin_early and options.takes_the_first_epoch_whole
        )
        self._saved_steps = loop.steps
        prepare(model, dataset, loop.runner)
        if loop.runner.is_asynchronous:
            make_atomic(model.optimizer, loop.runner.parallelism)

    @property
    def _epoch_steps(self) -> int:
        return self._options.steps_per_epoch or self._dataset.steps_per_epoch

    def run(self) -> keras.callbacks.History:
        """Blocks until all epochs are done."""
        model, options = self._model, self._options
        state = self._state = self._restored()
        self._program = Program(model, self._dataset, self._loop.runner, self._loop.applied)
        test = None
        if self._validation is not None:
            test = Program(model, self._validation, self._loop.runner)
        history = keras.callbacks.History()
        mine = called_in(options.callbacks, self._loop.runner.replica)
        hooks = keras.callbacks.CallbackList(
            [*mine, history],
            add_progbar=options.verbose != 0 and self._loop.runner.replica == 0,
            model=model,
            epochs=options.epochs,
            steps=None if self._arriving else self._epoch_steps,
            verbose=options.verbose,
        )
        model.stop_training = False
        hooks.on_train_begin()
        history.history, history.epoch = dict(state.history), list(state.history_epochs)
        self._history = history
        self._callbacks = CallbackStates(options.callbacks)
        self._callbacks.restore(state.callbacks, self._checkpointer.arrays(self._section))
        logs: dict[str, float] = {}
        while state.epoch < options.epochs and not state.stopped:
            epoch = state.epoch
            hooks.on_epoch_begin(epoch)
            logs = self._train_epoch(hooks)
            if self._arriving:
                self._arriving = False
                self._loop.expect(self._dataset, epoch)
                hooks.set_params({**hooks.params, "steps": self._epoch_steps})
            if test is not None and self._validation is not None and options.validates(epoch):
                hooks.on_test_begin()
                total = self._loop.evaluate(test, self._validation, epoch + 1, options.epochs)
                hooks.on_test_end(total)
                logs.update({f"val_{name}": value for name, value in total.items()})
            hooks.on_epoch_end(epoch, logs)
            state.epoch, state.step, state.totals = epoch + 1, 0, None
            # what a callback decides by looking elsewhere, the others must follow
            stop = model.stop_training or self._told_to_stop()
            state.stopped = any(self._loop.runner.gather(int(stop)))
            self._publish()
            is_last = state.stopped or state.epoch == options.epochs
            if is_last or self._checkpointer.affordable():
                self._save()
        if options.epochs > 0 and model.optimizer is not None:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        hooks.on_train_end(logs)
        return history

    def _restored(self) -> _State:
        """The state of the checkpoint that the run continues from, or a new one."""
        model = self._model
        record = self._checkpointer.restore(
            self._section, model=model, optimizer=model.optimizer, seeds=random_state(model)
        )
        if record is None:
            return _State(self._options.initial_epoch)
        state = _State(**record)
        # the first fit of the run is in its first epoch, or there would be no more to come
        self._arriving = self._arriving and state.epoch == 0
        division = self._division()
        if state.division[2] == 0 and not self._arriving:
            state.division[2] = self._dataset.steps_per_epoch
        at_border = state.step == 0 and self._is_whole(state.division) and self._is_whole(division)
        if state.division != division and not at_border:
            names = ("batch_size", "workers in step", "steps_per_epoch")
            raise UsageError(
                f"the checkpoint at step {self._checkpointer.step} is {state.step} steps into epoch"
                f" {state.epoch + 1}, with {dict(zip(names, state.division, strict=True))}; it"
                f" cannot go on with {dict(zip(names, division, strict=True))}: use the former"
                " again (--num-workers, --strategy and the arguments of dataset() and fit())"
            )
        return state

    def _division(self) -> list[int]:
        steps = 0 if self._arriving else self._epoch_steps
        return [self._dataset.batch_size, self._dataset.replicas, steps]

    def _is_whole(self, division: list[int]) -> bool:
        """Whether epochs so divided are those of the dataset, each with all of its rows."""
        batch_size, replicas, steps = division
        return steps == -(-self._dataset.rows // (batch_size * replicas))

    def _parts(self) -> list[Part]:
        """What is left of the epoch.

        An epoch of fit is as many steps as the user says; the steps of all of them go through one
        epoch of the dataset after the other.
        """
        dataset, state = self._dataset, self._state
        parts: list[Part] = []
        at = state.epoch * self._epoch_steps + state.step
        end = (state.epoch + 1) * self._epoch_steps
        while at < end:
            epoch, first = divmod(at, dataset.steps_per_epoch)
            last = min(first + end - at, dataset.steps_per_epoch)
            stop = min(last * dataset.step_rows, dataset.rows)
            parts.append(Part(epoch, first * dataset.step_rows, stop))
            at += last - first
        return parts

    def _arrivals(self) -> Iterator[Part | None]:
        """What is left of the first epoch, as it comes, in whole steps; None after waiting for it.

        While more may come a step is kept back, so that the end of the epoch is never one without
        a step since the last checkpoint.
        """
        dataset, at = self._dataset, self._state.step * self._dataset.step_rows
        while not self._model.stop_training:
            dataset.look()
            is_whole, stop = not dataset.is_arriving, dataset.rows_here
            if not is_whole:
                stop = max(stop - 1, 0) // dataset.step_rows * dataset.step_rows
            if stop > at:
                yield Part(0, at, stop)
                at = stop
            elif not is_whole:
                self._loop.reports.moved()
                time.sleep(ARRIVAL_SECS)
                yield None
            if is_whole:
                return

    def _unit_steps(self) -> int | None:
        """What the user has asked for, here or in compile(), where 1 is the default."""
        compiled = int(self._model.steps_per_execution)
        return self._options.steps_per_execution or (compiled if compiled > 1 else None)

    def _train_epoch(self, hooks: Any) -> dict[str, float]:
        """Makes the steps of the epoch that are left; returns the epoch's logs."""
        loop, state, program, dataset = self._loop, self._state, self._program, self._dataset
        total = program.zero()
        for into, value in zip(total, state.totals or [], strict=False):
            into += np.asarray(value)
        parts = [] if self._arriving else self._parts()
        before = min(state.step * dataset.step_rows, dataset.rows_here)
        rows, done, begun = before + sum(part.rows for part in parts), 0, time.monotonic()
        data_epoch = 0
        logs: dict[str, float] = {}

        def save() -> None:
            if dataset.replicas == 1 and self._told_to_stop():
                self._model.stop_training = True  # and the end of the epoch saves
            else:
                loop.settle(dataset, data_epoch)
                self._save()

        def pause() -> Callable[[], None] | None:
            return save if self._checkpointer.due() else None

        def begin() -> None:
            hooks.on_train_batch_begin(state.step)

        def is_over() -> bool:
            return bool(self._model.stop_training)

        def units() -> Iterator[tuple[Part, Any]]:
            options = pause, is_over, begin, self._unit_steps()
            yield from loop.run(program, dataset, parts, *options)
            for part in self._arrivals() if self._arriving else ():
                if part is not None:
                    yield from loop.run(program, dataset, [part], *options)
                # run() leaves the pause after the last unit to who ends the epoch
                at_rest = pause() if loop.steps > self._saved_steps else None
                if at_rest is not None and dataset.is_arriving and not is_over():
                    at_rest()

        for part, values in units():
            rows = dataset.rows_here if self._arriving else rows
            program.add(total, values)
            done += part.rows
            data_epoch = part.epoch
            loop.count(dataset, part)
            state.step += -(-part.rows // dataset.step_rows)
            state.totals = [value.tolist() for value in total]
            logs = program.logs(total)
            hooks.on_train_batch_end(state.step - 1, logs)
            loop.progress(
                "train", before + done, rows, done / (time.monotonic() - begun), logs,
                last=before + done == rows and not dataset.is_arriving,
                epoch=state.epoch + 1, epochs=self._options.epochs,
            )  # fmt: skip
        loop.settle(dataset, data_epoch)
        return program.logs(total)

    def _save(self) -> None:
        state = self._state
        state.division = self._division()
        state.callbacks, arrays = self._callbacks.get()
        state.history_epochs = list(self._history.epoch)
        state.history = {
            name: np.asarray(values).tolist() for name, values in self._history.history.items()
        }
        self._checkpointer.save(self._loop.steps, vars(state), self._section, arrays)
        self._saved_steps = self._loop.steps
