"""What frameworks do in a gang when one process dies, or stands still; without Spark."""

from __future__ import annotations

import importlib.util
import signal

import pytest
from gang_processes import Processes, app_of

from tfos.fault.failures import FailureKind
from tfos.runtime.protocol import Progress

ROWS = 1003
pytestmark = [pytest.mark.timeout(240), pytest.mark.full]


@pytest.fixture(params=["torch", "jax", "xgboost"])
def framework(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install tfos[{request.param}]")
    return request.param


def is_saved(rank, message):
    return isinstance(message, Progress) and message.progress["checkpoints"].get("saved", 0) > 1


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_fail_at_once_and_all_go_on(framework, tmp_path, victim):
    until = tmp_path / "until"
    app = app_of("gang_frameworks", "GangFrameworks", framework=framework, until=str(until))
    with Processes(tmp_path, app, 2, ROWS) as gang:
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        gang.signal(victim, signal.SIGKILL)
        failed, status = gang.ended(1 - victim)
        # JAX aborts when its coordinator is gone
        assert status in (1, -signal.SIGABRT), gang.logs
        if failed is not None:
            assert failed.kind in (FailureKind.EXCEPTION, FailureKind.PEER)
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        until.touch()
        outcome = gang.ended(0)[0].outcome
    metrics = outcome["metrics"]
    assert metrics["begun"] > 0
    assert metrics["seen"] == [n * metrics["epochs"] for n in (ROWS, ROWS * (ROWS - 1) // 2)]
    assert outcome["feeds"]["train"]["rows_trained"] == [ROWS] * metrics["epochs"]
