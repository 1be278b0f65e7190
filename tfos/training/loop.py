"""fit and evaluate for compiled Keras models, the same for every strategy.

Keras 3's own Model.fit does not run under ParameterServerStrategy. This loop does what it does:
epochs, metrics, validation, callbacks, History. It cuts each epoch into units, keeps every worker
busy with them, and knows at any quiet moment exactly which rows the weights have seen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.fault.checkpoint import Checkpointer
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.plan import unit_steps, units
from tfos.training.atomic import make_atomic
from tfos.training.program import AppliedRows, CustomProgram, Program, prepare, random_state
from tfos.training.runner import Reports, Runner

# units submitted per worker at a time: one at work and one waiting hides the dispatch
_IN_FLIGHT = 2
_PROGRESS_SECS = 0.5


class Trainer:
    """Runs training loops of one process. Not thread-safe.

    reports: gets the progress at most every half second, and at each epoch's end.
    """

    def __init__(
        self, runner: Runner, checkpointer: Checkpointer, ledger: Ledger, reports: Reports
    ) -> None:
        self._runner = runner
        self._checkpointer = checkpointer
        self._ledger = ledger
        self._reports = reports
        self._fits = 0
        self._custom: dict[Any, CustomProgram] = {}
        self._steps = checkpointer.step
        self._applied = AppliedRows(runner)
        self._reported = 0.0

    def fit(
        self,
        model: keras.Model,
        dataset: FeedDataset,
        epochs: int,
        validation: FeedDataset | None,
        callbacks: Sequence[keras.callbacks.Callback],
        steps_per_execution: int | None,
    ) -> keras.callbacks.History:
        """See TrainContext.fit."""
        prepare(model, dataset, self._runner)
        if self._runner.coordinator is not None:
            make_atomic(model.optimizer, self._runner.parallelism)
        section = f"fit{self._fits}"
        self._fits += 1
        state = self._checkpointer.restore(
            section, model=model, optimizer=model.optimizer, seeds=random_state(model)
        ) or {
            "epoch": 0,
            "row": 0,
            "totals": None,
            "history": {},
            "stopped": False,
        }
        if steps_per_execution is None and model.steps_per_execution > 1:
            steps_per_execution = model.steps_per_execution
        steps = steps_per_execution or unit_steps(
            dataset.rows, dataset.batch_size, self._runner.parallelism
        )
        program = Program(model, dataset, self._runner, self._applied)
        test = None
        if validation is not None:
            test = Program(model, validation, self._runner)
        history = keras.callbacks.History()
        hooks = keras.callbacks.CallbackList(
            [*callbacks, history],
            model=model,
            epochs=epochs,
            steps=dataset.steps_per_epoch,
            verbose=0,
        )
        model.stop_training = False
        hooks.on_train_begin()
        history.history = state["history"]
        history.epoch = list(range(state["epoch"]))
        logs: dict[str, float] = {}
        while state["epoch"] < epochs and not state["stopped"]:
            epoch = state["epoch"]
            hooks.on_epoch_begin(epoch)
            logs = self._train_epoch(section, state, epochs, program, dataset, steps, hooks)
            if test is not None and validation is not None:
                total = self._test(test, validation, {"epoch": epoch + 1, "epochs": epochs})
                logs.update({f"val_{name}": value for name, value in total.items()})
            hooks.on_epoch_end(epoch, logs)
            state.update(
                epoch=epoch + 1, row=0, totals=None, stopped=bool(model.stop_training),
                history={k: [float(x) for x in v] for k, v in history.history.items()},
            )  # fmt: skip
            self._save(section, state)
        hooks.on_train_end(logs)
        return history

    def _train_epoch(
        self,
        section: str,
        state: dict[str, Any],
        epochs: int,
        program: Program,
        dataset: FeedDataset,
        steps: int,
        hooks: Any,
    ) -> dict[str, float]:
        """Trains on the rows of the epoch from state["row"] on; returns the epoch's logs."""
        epoch = state["epoch"]
        total = program.zero()
        for into, value in zip(total, state["totals"] or [], strict=False):
            into += np.asarray(value)
        begun, first_row = time.monotonic(), state["row"]
        parts = units(first_row, dataset.rows, dataset.batch_size, steps)
        done = first_row
        logs: dict[str, float] = {}
        settled = first_row

        def settle() -> None:
            nonlocal settled
            self._settle(dataset.feed, epoch, done - settled)
            settled = done

        def save() -> None:
            settle()
            self._save(section, state)

        def pause() -> Callable[[], None] | None:
            return save if self._checkpointer.due() else None

        for start, stop, values in self._run(program, parts, epoch, pause):
            hooks.on_train_batch_begin(start // dataset.batch_size)
            program.add(total, values)
            done += stop - start
            self._steps += -(-(stop - start) // dataset.batch_size)
            self._ledger.add(dataset.feed, epoch, stop - start)
            state.update(row=done, totals=[value.tolist() for value in total])
            logs = program.logs(total)
            hooks.on_train_batch_end((stop - 1) // dataset.batch_size, logs)
            self._progress(
                "train", epoch + 1, epochs, done, dataset.rows,
                (done - first_row) / (time.monotonic() - begun), logs, last=done == dataset.rows,
            )  # fmt: skip
        settle()
        return program.logs(total)

    def _settle(self, feed: str, epoch: int, done: int) -> None:
        """Notes which of the steps since the last call were made twice; nothing is under way."""
        surplus = self._applied.surplus(done)
        if surplus:
            self._ledger.repeat(feed, epoch, surplus)

    def _save(self, section: str, state: dict[str, Any]) -> None:
        with self._reports.quiet():
            self._checkpointer.save(self._steps, state, section)

    def evaluate(self, model: keras.Model, dataset: FeedDataset) -> dict[str, float]:
        """See TrainContext.evaluate."""
        prepare(model, dataset, self._runner)
        return self._test(Program(model, dataset, self._runner), dataset, {})

    def _test(
        self, program: Program, dataset: FeedDataset, where: dict[str, int]
    ) -> dict[str, float]:
        with self._reports.quiet():
            return self._test_quietly(program, dataset, where)

    def _test_quietly(
        self, program: Program, dataset: FeedDataset, where: dict[str, int]
    ) -> dict[str, float]:
        total = program.zero()
        done, begun = 0, time.monotonic()
        steps = unit_steps(dataset.rows, dataset.batch_size, self._runner.parallelism)
        parts = units(0, dataset.rows, dataset.batch_size, steps)
        for start, stop, values in self._run(program, parts, 0):
            program.add(total, values)
            done += stop - start
            self._progress(
                "evaluate", where.get("epoch", 0), where.get("epochs", 0), done, dataset.rows,
                done / (time.monotonic() - begun), {}, last=False,
            )  # fmt: skip
        return program.logs(total)

    def _run(
        self,
        program: Program | CustomProgram,
        parts: Sequence[tuple[int, int]],
        epoch: int,
        pause: Callable[[], Callable[[], None] | None] = lambda: None,
    ) -> Iterator[tuple[int, int, Any]]:
        """Runs the program on each part; yields (start, stop, result) in order, as they are done.

        pause: asked after each part; what it returns is called when all that was submitted is
        done, so that the weights have seen the parts that were yielded and no others.
        """
        pending: deque[tuple[int, int, Any]] = deque()
        limit = _IN_FLIGHT * self._runner.parallelism

        def first() -> tuple[int, int, Any]:
            start, stop, result = pending.popleft()
            try:
                return start, stop, result.fetch()
            except tf.errors.CancelledError:
                self._runner.join()  # raises the error that this one was cancelled for
                raise

        for start, stop in parts:
            bounds = tf.constant([epoch, start, stop], tf.int64)
            pending.append((start, stop, self._runner.submit(program.function, bounds)))
            if len(pending) >= limit:
                yield first()
            at_rest = pause()
            if at_rest is not None and stop < parts[-1][1]:
                while pending:
                    yield first()
                at_rest()
        while pending:
            yield first()

    def _progress(
        self,
        phase: str,
        epoch: int,
        epochs: int,
        done: int,
        rows: int,
        rows_per_sec: float,
        logs: dict[str, float],
        last: bool,
    ) -> None:
        now = time.monotonic()
        if last or now - self._reported >= _PROGRESS_SECS:
            self._reported = now
            self._reports.progress(
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

    def run_epoch(self, step: Callable[..., Any], dataset: FeedDataset, epoch: int) -> float:
        """See TrainContext.run_epoch."""
        key = (step, dataset)
        if key not in self._custom:
            self._custom[key] = CustomProgram(step, dataset, self._runner, self._applied)
        total, done, begun = 0.0, 0, time.monotonic()
        steps = unit_steps(dataset.rows, dataset.batch_size, self._runner.parallelism)
        parts = units(0, dataset.rows, dataset.batch_size, steps)
        for start, stop, value in self._run(self._custom[key], parts, epoch):
            total += float(value)
            done += stop - start
            self._steps += -(-(stop - start) // dataset.batch_size)
            self._ledger.add(dataset.feed, epoch, stop - start)
            self._progress(
                "train", epoch + 1, 0, done, dataset.rows, done / (time.monotonic() - begun),
                {"loss": total / done}, last=done == dataset.rows,
            )  # fmt: skip
        self._settle(dataset.feed, epoch, done)
        return total / dataset.rows
