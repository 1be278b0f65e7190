"""Runs programs over the rows of a dataset, the same for every strategy.

The loop cuts an epoch into units, keeps every worker busy with them, and knows at any quiet moment
exactly which rows the weights have seen. Where processes train in step, each of them runs this
loop, sees the same results, and so comes to the same decisions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from tfos.fault.reports import Reports
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.plan import Part, share
from tfos.training.custom import CustomProgram
from tfos.training.equality import check_equal
from tfos.training.pace import Pace
from tfos.training.predictions import PredictProgram
from tfos.training.program import AppliedRows, Program
from tfos.training.programs import make_epoch_program, make_predict_program
from tfos.training.runner import Runner
from tfos.training.step import prepare

# units submitted per worker at a time: one at work and one waiting hides the dispatch
MOST_UNDER_WAY = 2
_PROGRESS_SECS = 0.5


class Watch:
    """What goes on between the units of a run; nothing, unless somebody says so."""

    def begin(self) -> None:
        """Called before each unit is run; where units overlap, before it is yielded."""

    def is_over(self) -> bool:
        """Whether no more units are to be submitted."""
        return False

    def wants_rest(self) -> bool:
        """Asked after each unit: whether all that was submitted is to be done before the next."""
        return False

    def rest(self) -> None:
        """Called then: the weights have seen the units that were yielded and no others.

        Not when it is over by then: whoever asked for that has the last word.
        """


class Loop:
    """Runs the programs of one process, and keeps account of it. Not thread-safe.

    steps: training steps made in this run so far, of all attempts.
    reports: gets the progress at most every half second, and at each epoch's end.
    """

    def __init__(self, runner: Runner, ledger: Ledger, reports: Reports, steps: int) -> None:
        self.runner = runner
        self.reports = reports
        self.steps = steps
        self.applied = AppliedRows(runner)
        self._ledger = ledger
        self._custom: dict[Any, Any] = {}
        self._paces: WeakKeyDictionary[Any, Pace] = WeakKeyDictionary()
        self._reported = 0.0
        self._unsettled = 0

    def run(
        self,
        program: Program | CustomProgram | PredictProgram,
        dataset: FeedDataset,
        parts: Sequence[Part],
        watch: Watch | None = None,
        unit_steps: int | None = None,
    ) -> Iterator[tuple[Part, Any]]:
        """Runs the program on the parts, cut into units; yields (unit, result) in order, when done.

        Unless the runner is asynchronous one unit is done when the next one begins.

        watch: told of what goes on, and may end it.
        unit_steps: of each unit; chosen by how long steps take when not given.
        """
        watch = watch or Watch()
        pending: deque[tuple[Part, Any]] = deque()
        overlaps = self.runner.is_asynchronous
        limit = MOST_UNDER_WAY * self.runner.parallelism if overlaps else 1
        pace = self._paces.setdefault(program, Pace(self.runner.parallelism, overlaps, unit_steps))
        pace.begin()

        def first() -> Iterator[tuple[Part, Any]]:
            unit, result = pending.popleft()
            if overlaps:
                watch.begin()
            value = result.fetch()
            begun = time.monotonic()
            yield unit, value
            now = time.monotonic()
            pace.done(dataset.steps_in(unit.rows), now, now - begun)

        for unit in self._units(dataset, parts, pace):
            if watch.is_over():
                break
            if not overlaps:
                watch.begin()
            bounds = tf.constant([unit.epoch, unit.start, unit.stop], tf.int64)
            result = self.runner.submit(program.function, bounds, *program.inputs)
            pending.append((unit, result))
            if len(pending) >= limit:
                yield from first()
            if watch.wants_rest():
                while pending:
                    yield from first()
                if not watch.is_over():
                    watch.rest()
                pace.begin()
        while pending:
            yield from first()

    def _units(self, dataset: FeedDataset, parts: Sequence[Part], pace: Pace) -> Iterator[Part]:
        """The parts cut into units, as late as they are used.

        Workers in step, of which each has a clock of its own, agree on each unit: on the longest,
        as who waits for a process with much to do between units takes the wait for slow steps.
        """
        left = sum(dataset.steps_in(part.rows) for part in parts)
        for part in parts:
            at = part.start
            while at < part.stop:
                steps = max(self.runner.gather(pace.next(left)))
                unit = Part(part.epoch, at, min(at + steps * dataset.step_rows, part.stop))
                at = unit.stop
                left -= dataset.steps_in(unit.rows)
                yield unit

    def count(self, dataset: FeedDataset, part: Part, due: int | None) -> None:
        """Takes a part into account that was trained on.

        due: rows of the whole epoch; see Ledger.add.
        """
        self.steps += dataset.steps_in(part.rows)
        self._ledger.add(dataset.feed, part.epoch, part.rows, due)
        self._unsettled += part.rows

    def settle(self, dataset: FeedDataset, epoch: int) -> None:
        """Notes which of the steps since the last call were made twice; nothing is under way."""
        surplus = self.applied.surplus(self._unsettled)
        self._unsettled = 0
        if surplus:
            self._ledger.repeat(dataset.feed, epoch, surplus)

    def evaluate(
        self, program: Program, dataset: FeedDataset, epoch: int = 0, epochs: int = 0
    ) -> dict[str, float]:
        """The logs of a test program over all rows of a dataset, after `epoch` of the `epochs`."""
        state, done, begun = program.begun(), 0, time.monotonic()
        program.go_on(state)
        dataset.wait_complete()
        with self.reports.quiet():
            for part, values in self.run(program, dataset, [_whole(dataset)]):
                program.add(state, values)
                done += part.rows
                rate = done / (time.monotonic() - begun)
                self.progress("evaluate", done, dataset.rows, rate, {}, epoch=epoch, epochs=epochs)
        return program.logs(state)

    def prepare_predict(self, model: keras.Model, dataset: FeedDataset) -> PredictProgram:
        """The program for predict(). Blocks until all rows are there."""
        dataset = dataset.wait_complete().in_order()
        step = prepare(model, dataset, self.runner, "predict_step")
        return make_predict_program(step, dataset, self.runner)

    def predict(self, program: PredictProgram, dataset: FeedDataset) -> Any:
        """See TrainContext.predict."""
        dataset = dataset.in_order()
        pieces: list[Any] = []
        done, begun = 0, time.monotonic()
        with self.reports.quiet():
            for part, outputs in self.run(program, dataset, [_whole(dataset)]):
                pieces.extend(zip(_starts(dataset, part), program.structured(outputs), strict=True))
                done += part.rows
                rate = done / (time.monotonic() - begun)
                self.progress("predict", done, dataset.rows, rate, {})
        pieces.sort(key=lambda piece: piece[0])
        return keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *(outputs for _, outputs in pieces)
        )

    def prepare_epoch(self, step: Callable[..., Any], dataset: FeedDataset) -> Any:
        """The program for run_epoch(). Blocks until all rows are there."""
        dataset.wait_complete()
        key = (step, dataset)
        if key not in self._custom:
            program = make_epoch_program(step, dataset, self.runner, self.applied)
            if dataset.replicas > 1:
                check_equal(self.runner, program.function.get_concrete_function())
            self._custom[key] = program
        return self._custom[key]

    def run_epoch(self, program: Any, dataset: FeedDataset, epoch: int) -> float:
        """See TrainContext.run_epoch."""
        total, done, begun = 0.0, 0, time.monotonic()
        for part, value in self.run(program, dataset, [_whole(dataset, epoch)]):
            total += float(np.sum(value))
            done += part.rows
            self.count(dataset, part, dataset.rows)
            self.progress(
                "train", done, dataset.rows, done / (time.monotonic() - begun),
                {"loss": total / done}, last=done == dataset.rows, epoch=epoch + 1,
            )  # fmt: skip
        self.settle(dataset, epoch)
        return total / dataset.rows

    def progress(
        self,
        phase: str,
        done: int,
        rows: int,
        rows_per_sec: float,
        logs: dict[str, float],
        *,
        last: bool = False,
        epoch: int = 0,
        epochs: int = 0,
    ) -> None:
        """Reports how far an epoch is, if it is time to; `last` always is."""
        now = time.monotonic()
        if last or now - self._reported >= _PROGRESS_SECS:
            self._reported = now
            self.reports.progress(
                {
                    "phase": phase,
                    "epoch": epoch,
                    "epochs": epochs,
                    "rows_done": done,
                    "rows": rows,
                    "rows_per_sec": round(rows_per_sec),
                    "metrics": logs,
                }
            )


def _whole(dataset: FeedDataset, epoch: int = 0) -> Part:
    return Part(epoch, 0, dataset.rows)


def _starts(dataset: FeedDataset, part: Part) -> list[int]:
    """The position of each replica's first row in a part."""
    ahead = part.start // dataset.replicas
    return [share(dataset.rows, r, dataset.replicas)[0] + ahead for r in range(dataset.replicas)]
