"""The program of a step: in graphs of TensorFlow alone, or with the store."""

from __future__ import annotations

from tfos.feeding.dataset import FeedDataset
from tfos.training.predictions import PredictProgram
from tfos.training.program import AppliedRows, Program
from tfos.training.runner import Runner
from tfos.training.step import Step
from tfos.training.stored.predictions import StoredPredict
from tfos.training.stored.program import StoredProgram


def make_program(
    step: Step, dataset: FeedDataset, runner: Runner, applied: AppliedRows | None = None
) -> Program:
    """applied: of a training step; None for a test step."""
    if runner.store_of(step.model) is None:
        return Program(step, dataset, runner, applied)
    return StoredProgram(step, dataset, runner, "test" if applied is None else "train")


def make_predict_program(step: Step, dataset: FeedDataset, runner: Runner) -> PredictProgram:
    if runner.store_of(step.model) is None:
        return PredictProgram(step, dataset, runner)
    return StoredPredict(step, dataset, runner)
