"""The program of a step: in graphs of TensorFlow alone, or with the store.

What has to do with the store is imported where a run has one: its kernels are compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfos.feeding.dataset import FeedDataset
from tfos.training.custom import CustomProgram
from tfos.training.predictions import PredictProgram
from tfos.training.program import AppliedRows, Program
from tfos.training.runner import Runner
from tfos.training.step import Step


def make_program(
    step: Step, dataset: FeedDataset, runner: Runner, applied: AppliedRows | None = None
) -> Program:
    """applied: of a training step; None for a test step."""
    if runner.store_of(step.model) is None:
        return Program(step, dataset, runner, applied)
    from tfos.training.stored.program import StoredProgram

    return StoredProgram(step, dataset, runner, "test" if applied is None else "train")


def make_epoch_program(
    step: Callable[..., Any], dataset: FeedDataset, runner: Runner, applied: AppliedRows
) -> Any:
    """A CustomProgram or a PythonProgram. applied: counts the rows of each step."""
    if runner.python_store is None:
        return CustomProgram(step, dataset, runner, applied)
    from tfos.training.stored.epochs import PythonProgram

    return PythonProgram(step, dataset, runner.python_store)


def make_predict_program(step: Step, dataset: FeedDataset, runner: Runner) -> PredictProgram:
    if runner.store_of(step.model) is None:
        return PredictProgram(step, dataset, runner)
    from tfos.training.stored.predictions import StoredPredict

    return StoredPredict(step, dataset, runner)
