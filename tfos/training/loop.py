"""Runs programs over the rows of a dataset, the same for every strategy.

The loop cuts an epoch into units, keeps every worker busy with them, and knows at any quiet moment
exactly which rows the weights have seen. Where processes train in step, each of them runs this
loop, sees the same results, and so comes to the same decisions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.plan import share, unit_steps, units
from tfos.training.custom import CustomProgram
from tfos.training.predictions import PredictProgram
from tfos.training.program import AppliedRows, Program, prepare
from tfos.training.runner import Reports, Runner

# units submitted per worker at a time: one at work and one waiting hides the dispatch
_IN_FLIGHT = 2
_PROGRESS_SECS = 0.5


@dataclass(frozen=True)
class Part:
    """The steps at positions [start, stop) of an epoch of a dataset."""

    epoch: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def never() -> None:
    """Nothing to do in a pause."""


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
        self._custom: dict[Any, CustomProgram] = {}
        self._reported = 0.0
        self._unsettled = 0

    def parts(self, dataset: FeedDataset, epoch: int = 0) -> list[Part]:
        """The units of one whole epoch of a dataset."""
        return [
            Part(epoch, start, stop)
            for start, stop in units(0, dataset.rows, dataset.step_rows, self.unit_steps(dataset))
        ]

    def unit_steps(self, dataset: FeedDataset) -> int:
        """Steps in one unit of a dataset, where the user names none."""
        return unit_steps(dataset.rows, dataset.step_rows, self.runner.parallelism)

    def run(
        self,
        program: Program | CustomProgram | PredictProgram,
        parts: Sequence[Part],
        pause: Callable[[], Callable[[], None] | None] = never,
        is_over: Callable[[], bool] = lambda: False,
        begin: Callable[[], None] = never,
    ) -> Iterator[tuple[Part, Any]]:
        """Runs the program on each part; yields (part, result) in order, as they are done.

        Without a coordinator one part is done when the next one begins.

        pause: asked after each part; what it returns is called when all that was submitted is
        done, so that the weights have seen the parts that were yielded and no others.
        is_over: when it says so, no more parts are submitted.
        begin: called before each part is run; under a coordinator, where parts overlap, before it
        is yielded.
        """
        pending: deque[tuple[Part, Any]] = deque()
        overlaps = self.runner.coordinator is not None
        limit = _IN_FLIGHT * self.runner.parallelism if overlaps else 1

        def first() -> tuple[Part, Any]:
            part, result = pending.popleft()
            if overlaps:
                begin()
            try:
                return part, result.fetch()
            except tf.errors.CancelledError:
                self.runner.join()  # raises the error that this one was cancelled for
                raise

        for part in parts:
            if is_over():
                break
            if not overlaps:
                begin()
            bounds = tf.constant([part.epoch, part.start, part.stop], tf.int64)
            pending.append((part, self.runner.submit(program.function, bounds)))
            if len(pending) >= limit:
                yield first()
            at_rest = pause()
            if at_rest is not None and part != parts[-1]:
                while pending:
                    yield first()
                at_rest()
        while pending:
            yield first()

    def count(self, dataset: FeedDataset, part: Part) -> None:
        """Takes a part into account that was trained on."""
        self.steps += -(-part.rows // dataset.step_rows)
        self._ledger.add(dataset.feed, part.epoch, part.rows, dataset.rows)
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
        total, done, begun = program.zero(), 0, time.monotonic()
        with self.reports.quiet():
            for part, values in self.run(program, self.parts(dataset)):
                program.add(total, values)
                done += part.rows
                rate = done / (time.monotonic() - begun)
                self.progress("evaluate", done, dataset.rows, rate, {}, epoch=epoch, epochs=epochs)
        return program.logs(total)

    def predict(self, model: keras.Model, dataset: FeedDataset) -> Any:
        """See TrainContext.predict."""
        dataset = dataset.in_order()
        prepare(model, dataset, self.runner, needs_compile=False)
        program = PredictProgram(model, dataset, self.runner)
        pieces: list[Any] = []
        done, begun = 0, time.monotonic()
        with self.reports.quiet():
            for part, outputs in self.run(program, self.parts(dataset)):
                pieces.extend(zip(_starts(dataset, part), outputs, strict=True))
                done += part.rows
                rate = done / (time.monotonic() - begun)
                self.progress("predict", done, dataset.rows, rate, {})
        pieces.sort(key=lambda piece: piece[0])
        return keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *(outputs for _, outputs in pieces)
        )

    def run_epoch(self, step: Callable[..., Any], dataset: FeedDataset, epoch: int) -> float:
        """See TrainContext.run_epoch."""
        key = (step, dataset)
        if key not in self._custom:
            self._custom[key] = CustomProgram(step, dataset, self.runner, self.applied)
        total, done, begun = 0.0, 0, time.monotonic()
        for part, value in self.run(self._custom[key], self.parts(dataset, epoch)):
            total += float(value)
            done += part.rows
            self.count(dataset, part)
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


def _starts(dataset: FeedDataset, part: Part) -> list[int]:
    """The position of each replica's first row in a part."""
    ahead = part.start // dataset.replicas
    return [share(dataset.rows, r, dataset.replicas)[0] + ahead for r in range(dataset.replicas)]
