"""One epoch of fit: the steps that its source has are made and counted, up to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from tfos.feeding.dataset import FeedDataset
from tfos.feeding.epochs import EpochSource, Stretch
from tfos.feeding.plan import Part, Position
from tfos.training.loop import Loop, Watch
from tfos.training.program import Program


@dataclass
class FitState:
    """How far a fit is: what a checkpoint says of it besides the weights, as JSON.

    epoch: epochs done. step, rows: steps and rows done in the next one. totals: state of the
    metrics after them. is_made: whether those are all of its steps, and what comes after them at
    its end is not done yet; no checkpoint is made then.
    data_epoch, takes: where that is in the epochs of the dataset, see plan.Position. order: what
    these have their rows in, see FeedDataset.order.
    """

    epoch: int
    data_epoch: int
    step: int = 0
    rows: int = 0
    totals: list[Any] | None = None
    is_made: bool = False
    takes: list[list[int]] = field(default_factory=list)
    order: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    history_epochs: list[int] = field(default_factory=list)
    stopped: bool = False
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        return Position(self.data_epoch, tuple((replicas, rows) for replicas, rows in self.takes))

    @position.setter
    def position(self, position: Position) -> None:
        self.data_epoch = position.epoch
        self.takes = [list(take) for take in position.takes]

    def end_epoch(self) -> None:
        self.epoch += 1
        self.step = self.rows = 0
        self.totals, self.is_made = None, False


class Epoch(Watch):
    """The epoch of a fit that is under way.

    source: what is left of it. state: is kept up to date with each unit.
    program: gives the training program of a dataset. hooks: the callbacks. epochs: of the fit.
    unit_steps: of a unit; None where the loop is to choose.
    save: saves a checkpoint of the state as it is. is_due: whether one is to be made.
    leave: called when the state has changed; see Runner.leave().
    told_to_stop: whether somebody else wants the training to end; asked at rest.
    """

    def __init__(
        self,
        loop: Loop,
        model: keras.Model,
        source: EpochSource,
        state: FitState,
        program: Callable[[FeedDataset], Program],
        hooks: keras.callbacks.CallbackList,
        epochs: int,
        unit_steps: int | None,
        save: Callable[[], None],
        is_due: Callable[[], bool],
        told_to_stop: Callable[[], bool],
        leave: Callable[[], None],
    ) -> None:
        self._leave = leave
        self._loop, self._model, self._source, self._state = loop, model, source, state
        self._program_of, self._hooks, self._epochs = program, hooks, epochs
        self._unit_steps = unit_steps
        self._save, self._is_due, self._told_to_stop = save, is_due, told_to_stop
        self._program = program(source.dataset)
        self._total = self._program.begun()
        for into, value in zip(self._total, state.totals or [], strict=False):
            into[...] = value
        self._begun, self._before = time.monotonic(), state.rows
        self._saved_steps = loop.steps
        # where no step is left the position is that of the next epoch
        self._data_epoch = state.data_epoch - (state.is_made and not state.takes)

    def run(self) -> dict[str, float]:
        """Makes the steps that are left, or as many as a callback wants; returns the epoch's logs.

        Blocks. Saves when a checkpoint is due, but for the end of the epoch.
        """
        for stretch in self._source.stretches():
            if stretch.parts:
                self._make(stretch)
            else:
                self._loop.reports.moved()
                if self.wants_rest():
                    self.rest()
            if self.is_over():
                break
        self._settle()
        return self._program.logs(self._total)

    def _make(self, stretch: Stretch) -> None:
        program = self._program_of(stretch.dataset)
        program.go_on(self._total)
        units = self._loop.run(program, stretch.dataset, stretch.parts, self, self._unit_steps)
        for unit, values in units:
            program.add(self._total, values)
            self._count(stretch, unit)
            logs = self._program.logs(self._total)
            self._hooks.on_train_batch_end(self._state.step - 1, logs)
            if not self.is_over():  # else who decided that decides it again
                self._state.is_made = not self._has_more
                self._leave()
            self._report(logs)

    def _count(self, stretch: Stretch, unit: Part) -> None:
        state = self._state
        self._loop.count(stretch.dataset, unit, stretch.due)
        self._data_epoch = unit.epoch
        state.position = stretch.position_after(unit)
        state.step += stretch.dataset.steps_in(unit.rows)
        state.rows += unit.rows
        state.totals = [value.tolist() for value in self._total]

    def _report(self, logs: dict[str, float]) -> None:
        rows = self._state.rows
        rate = (rows - self._before) / (time.monotonic() - self._begun)
        self._loop.progress(
            "train", rows, self._before + self._source.rows, rate, logs,
            last=not self._has_more, epoch=self._state.epoch + 1, epochs=self._epochs,
        )  # fmt: skip

    @property
    def _has_more(self) -> bool:
        """Whether steps are left, or may come."""
        source = self._source
        return not source.is_whole or self._state.rows < self._before + source.rows

    def begin(self) -> None:
        self._hooks.on_train_batch_begin(self._state.step)

    def is_over(self) -> bool:
        return bool(self._model.stop_training)

    def wants_rest(self) -> bool:
        return self._is_due()

    def rest(self) -> None:
        """Saves, but for the end of the epoch, which saves itself, and what is saved already."""
        if not self._has_more or self._loop.steps == self._saved_steps:
            return
        if self._told_to_stop():
            self._model.stop_training = True  # and the end of the epoch saves
        else:
            self._settle()
            self._save()
            self._saved_steps = self._loop.steps

    def _settle(self) -> None:
        self._loop.settle(self._source.dataset, self._data_epoch)
