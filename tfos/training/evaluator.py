"""The evaluator role: evaluates each new checkpoint while the training goes on.

Its process runs train() as the chief does; where the chief would train in fit(), it waits for
checkpoints in the lake, restores the newest one, and evaluates it on fit's validation dataset. What
comes of it is a file of the lake, which the chief, the driver and `pl_submit status` read:

    evaluations.json    {"evaluations": [{"fit", "step", "metrics", "seconds"}, ...], "stop": null}

"stop" is the fit that is to end, since a callback said so. One evaluator writes the file, and a new
one goes on with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfos.errors import LakeError, StoreError, UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.feeding.dataset import FeedDataset
from tfos.lake.run_directory import RunDirectory
from tfos.training.callbacks import CallbackStates
from tfos.training.loop import Loop
from tfos.training.program import Program
from tfos.training.programs import make_program
from tfos.training.step import prepare, prepare_test

_POLL_SECS = 1.0
_log = logging.getLogger(__name__)


class Evaluator:
    """Evaluates the checkpoints of one run. Used by the evaluator's process.

    open_newest: opens the newest checkpoint of the run, to read only.
    events: directory for TensorBoard. publish: called when something new is there.
    """

    def __init__(
        self,
        lake: RunDirectory,
        loop: Loop,
        open_newest: Callable[[], Checkpointer],
        events: str,
        publish: Callable[[], None],
    ) -> None:
        self._lake = lake
        self._loop = loop
        self._open_newest = open_newest
        self._events, self._publish = events, publish

    def run(
        self,
        fit: int,
        model: keras.Model,
        dataset: FeedDataset,
        validation: FeedDataset | None,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> keras.callbacks.History:
        """Evaluates the checkpoints of the run's fit number `fit`, until the next fit has begun.

        dataset: what the chief trains on; no row of it is read here.
        For the last one that is never: the process is ended with the run. Raises UsageError when
        fit() has no validation dataset.
        """
        if validation is None:
            raise UsageError("--evaluator has nothing to evaluate on: give fit() a validation=")
        # as the chief does, whose checkpoints are to fit
        step = prepare(model, dataset, self._loop.runner)
        test = prepare_test(model, validation, self._loop.runner)
        program: Program | None = None
        record = self._lake.evaluations()
        history = keras.callbacks.History()
        hooks = keras.callbacks.CallbackList([*callbacks, history], model=model)
        model.stop_training = False
        hooks.on_train_begin()
        states = CallbackStates(callbacks)
        states.restore(record.get("callbacks", {}), {})
        done = max((e["step"] for e in record["evaluations"] if e["fit"] == fit), default=-1)
        writer = tf.summary.create_file_writer(self._events)
        while True:
            newest = self._lake.newest_checkpoint()
            checkpoint = self._open_newest() if newest is not None else None
            if checkpoint is not None and checkpoint.has(f"fit{fit + 1}"):
                return history
            if checkpoint is None or checkpoint.step <= done or not checkpoint.has(f"fit{fit}"):
                time.sleep(_POLL_SECS)
                continue
            try:
                self._loop.runner.continue_from(checkpoint)
            except (LakeError, StoreError) as error:
                if self._lake.newest_checkpoint() == newest:
                    raise
                # by a chief that was faster
                _log.warning("%s was removed while it was read: %s", newest, error)
                checkpoint.close()
                continue
            # now that a store has the tables as the chief has made them
            program = program or make_program(test, validation, self._loop.runner)
            checkpoint.restore(f"fit{fit}", **step.saved())
            checkpoint.close()
            done, begun = checkpoint.step, time.monotonic()
            metrics = self._loop.evaluate(program, validation)
            hooks.on_epoch_end(
                len(record["evaluations"]), {f"val_{name}": v for name, v in metrics.items()}
            )
            with writer.as_default(step=done):
                for name, value in metrics.items():
                    tf.summary.scalar(f"evaluation_{name}", value)
            writer.flush()
            self._publish()
            seconds = round(time.monotonic() - begun, 3)
            record["evaluations"].append(
                {"fit": fit, "step": done, "metrics": metrics, "seconds": seconds}
            )
            record["callbacks"] = states.get()[0]
            if model.stop_training:
                record["stop"] = fit
            self._lake.write_evaluations(record)
