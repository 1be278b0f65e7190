"""What frameworks do in a gang when one process dies, or stands still; without Spark."""

from __future__ import annotations

import signal
import time

import pytest
from conftest import poll
from frameworks import needs, options_of
from gang_processes import Processes, app_of

from tfos.fault.failures import FailureKind
from tfos.runtime.protocol import Progress
from tfos.strategies.gang.topology import DAEMON_GONE

ROWS = 1003
pytestmark = [pytest.mark.timeout(240), pytest.mark.full]


@pytest.fixture(params=["torch", "jax", "xgboost", "mpi"])
def framework(request):
    needs(request.param)
    return request.param


def is_saved(rank, message):
    return isinstance(message, Progress) and message.progress["checkpoints"].get("saved", 0) > 1


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_fail_at_once_and_all_go_on(framework, tmp_path, victim):
    until = tmp_path / "until"
    app = app_of("gang_frameworks", "GangFrameworks", framework=framework, until=str(until))
    with Processes(tmp_path, app, 2, ROWS, **options_of(framework)) as gang:
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        gang.signal(victim, signal.SIGKILL)
        failed, status = gang.ended(1 - victim)
        # JAX aborts when its coordinator is gone, and Open MPI exits when mpirun is
        assert status in (1, -signal.SIGABRT, DAEMON_GONE), gang.logs
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


def test_one_that_stands_still_is_found_and_the_others_fail_with_its_end(framework, tmp_path):
    app = app_of("gang_frameworks", "GangFrameworks", framework=framework)
    with Processes(tmp_path, app, 2, ROWS, hang_secs=8.0, **options_of(framework)) as gang:
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        gang.signal(1, signal.SIGSTOP)
        silent = gang.processes[1]
        verdict = poll(lambda: silent.watch.verdict(time.monotonic()), 20, "it is found")
        assert "no sign of life for 4 s" in verdict
        assert gang.processes[0].watch.verdict(time.monotonic()) is None
        assert gang.processes[0].is_running
        silent.kill()  # as its supervisor does
        failed, status = gang.ended(0)
    if framework == "mpi":
        assert status == DAEMON_GONE, gang.logs
    else:
        assert status == 1, gang.logs
        assert failed.kind is FailureKind.EXCEPTION
