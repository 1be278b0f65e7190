"""A role that evaluates checkpoints beside the training, and stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import APPS, submit

from tfos.client.control import read_status
from tfos.lake.run_directory import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize(
    ("strategy", "args"),
    [
        ("multi-worker", ()),
        ("kv", ("--table",)),
        pytest.param("kv", (), marks=pytest.mark.full),
        pytest.param("single", ("--table",), marks=pytest.mark.full),
    ],
)
def test_evaluator_stops_the_training(tmp_path: Path, strategy: str, args: tuple[str, ...]) -> None:
    run = submit(
        "--json", "--evaluator", "--strategy", strategy, "--lake", tmp_path,
        "--run-id", "watched", APPS / "watched.py", *args,
    )  # fmt: skip
    assert run.status == 0, run.stderr
    result = run.result
    metrics, evaluations = result["metrics"], result["evaluations"]
    assert 3 < metrics["epochs"] < 200
    assert not metrics["validated"]
    steps = [each["step"] for each in evaluations]
    assert steps == sorted(set(steps))
    assert steps[-1] == metrics["epochs"] * 10 == result["checkpoints"]["step"]
    losses = [each["metrics"]["loss"] for each in evaluations]
    best = min(losses)
    assert losses[0] > best < losses[-1], losses
    assert "evaluator" in metrics["events"]
    status = read_status(RunDirectory(str(tmp_path), "watched"))
    assert status.evaluation is not None and status.evaluation["step"] == steps[-1]
    assert "evaluator-0" in {role.task for role in status.roles}
