"""TF1's sessions between graphs: train to the last step, whoever dies on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import APPS, submit
from runs import Run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
APP = APPS / "tf1_line.py"
STRATEGY = ("--strategy", "between-graph", "--num-ps", 1, "--num-workers", 2)


def check(result: dict[str, Any]) -> dict[str, Any]:
    metrics = result["metrics"]
    assert metrics["weights"] == pytest.approx([3, 2], abs=0.1)
    assert result["checkpoints"]["step"] == metrics["global_step"]
    return metrics


@pytest.mark.parametrize("sync", [False, pytest.param(True, marks=pytest.mark.full)])
def test_trains_to_its_last_step(tmp_path: Path, sync: bool) -> None:
    steps, options = (1000, ["--sync"]) if sync else (4000, [])
    ended = submit("--json", *STRATEGY, "--lake", tmp_path, APP, "--steps", steps, *options)
    assert ended.status == 0, ended.stderr
    metrics = check(ended.result)
    assert metrics["global_step"] in range(steps, steps + 3)
    counts = metrics["counts"]
    assert ended.result["feeds"]["train"]["rows_read"][0] == 500  # the chief's share
    assert min(counts) > 100  # the worker did not sleep until the chief was done
    # in step each of both takes part in each step
    assert sum(counts) >= (2 if sync else 1) * (steps - 10)
    assert ended.result["restarts"] == {"chief": 0, "ps": 0, "worker": 0}


@pytest.mark.full
def test_any_process_may_die(tmp_path: Path) -> None:
    run = Run(tmp_path, "mortal", *STRATEGY, app=APP, args=())
    try:
        for task in ("worker-0", "ps-0", "chief-0"):
            run.survive(lambda task=task: os.kill(run.pid(task), signal.SIGKILL))
        result = run.finish()
    finally:
        run.close()
    check(result)
    causes = [(f["role"], f["kind"]) for f in result["failures"] if f["kind"] != "peer"]
    assert causes == [("worker", "signal"), ("ps", "signal"), ("chief", "signal")]
    assert result["restarts"] == {"chief": 2, "ps": 2, "worker": 3}
    assert result["attempts"] == 1
