"""What a gang's processes do, without Spark: they meet, train, save, fail, and go on."""

from __future__ import annotations

import os
import signal

import pytest
from gang_processes import Processes, app_of

from tfos.fault.failures import FailureKind
from tfos.runtime.protocol import Outcome, Progress
from tfos.spec.job import JobSpec

ROWS = 1003
pytestmark = pytest.mark.timeout(120)


def counting(**arguments):
    return app_of("gang_counts", "GangCounts", **{"epochs": 2, "step_secs": 0.0, **arguments})


def is_saved(rank, message):
    return isinstance(message, Progress) and message.progress["checkpoints"].get("saved", 0) > 2


def test_train_and_save_without_tensorflow(tmp_path):
    with Processes(tmp_path, counting(), 3, ROWS) as gang:
        gang.begin()
        ends = [gang.ended(rank) for rank in range(3)]
        assert [status for _, status in ends] == [0, 0, 0], gang.logs
        outcome = ends[0][0].outcome
        metrics, feed = outcome["metrics"], outcome["feeds"]["train"]
        assert (metrics["low"], metrics["high"], metrics["epochs"]) == (2, 2, 2)
        assert feed["rows_trained"] == feed["rows_due"] == [ROWS] * 2
        assert metrics["modules"] == []
        assert metrics["with_tensorflow"] == 0
        assert metrics["ranks"] == 3
        assert metrics["met"] == ["0/3 gloo", "1/3 gloo", "2/3 gloo"]
        assert outcome["checkpoints"]["step"] == metrics["step"] // 7 * 7
        progress = [m.progress for r, m in gang.said if r == 0 and isinstance(m, Progress)]
        assert progress[0]["phase"] == "train() begins"
        assert any(p["phase"] == "train" and p["rows"] == ROWS for p in progress)
        others = [m.outcome for r, m in gang.said if r and isinstance(m, Outcome)]
        assert sorted(o["metrics"]["place"] for o in others) == [[1, 3, 1, 3], [2, 3, 2, 3]]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_all_go_on_from_the_checkpoint(tmp_path, victim):
    """What the others raise is an exception of their own; with the ledger no row is lost."""
    until = tmp_path / "until"
    app = counting(epochs=10_000, until=str(until), step_secs=0.005)
    with Processes(tmp_path, app, 2, ROWS) as gang:
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        gang.signal(victim, signal.SIGKILL)
        assert gang.ended(victim) == (None, -signal.SIGKILL)
        failed, status = gang.ended(1 - victim)
        assert status == 1
        assert failed.kind in (FailureKind.EXCEPTION, FailureKind.PEER)
        gang.begin()
        gang.wait(is_saved, "checkpoints are saved")
        until.touch()
        outcome = gang.ended(0)[0].outcome
        metrics = outcome["metrics"]
        assert metrics["begun"] > 0
        assert metrics["low"] == metrics["high"] == metrics["epochs"]
        assert outcome["feeds"]["train"]["rows_trained"] == [ROWS] * metrics["epochs"]


def test_exceptions_are_told_as_they_are(tmp_path):
    with Processes(tmp_path, counting(fail=1), 2, ROWS) as gang:
        gang.begin()
        failed, status = gang.ended(1)
        assert (failed.kind, failed.message) == ("exception", "ValueError: no such row")
        assert status == 1
        assert gang.ended(0)[0].kind in (FailureKind.EXCEPTION, FailureKind.PEER)


def test_a_process_alone_is_a_gang(tmp_path):
    with Processes(tmp_path, counting(epochs=1), 1, ROWS) as gang:
        gang.begin()
        outcome = gang.ended(0)[0].outcome
        assert outcome["metrics"]["place"] == [0, 1, 0, 1]
        assert outcome["feeds"]["train"]["rows_trained"] == [ROWS]


def test_a_preempted_process_asks_for_a_checkpoint(tmp_path):
    app = counting(epochs=10_000, step_secs=0.01, save_every=10**9)
    with Processes(tmp_path, app, 2, ROWS, checkpoint_secs=1e6) as gang:
        gang.begin()
        gang.wait(lambda r, m: isinstance(m, Progress) and m.progress.get("rows_done"), "it trains")
        assert gang.lake.newest_checkpoint() is None
        gang.signal(0, signal.SIGTERM)
        failed, status = gang.ended(0)
        assert (failed.kind, status) == (FailureKind.PREEMPTED, 128 + signal.SIGTERM)
        assert gang.lake.newest_checkpoint() is not None


def test_no_workers_are_refused():
    with pytest.raises(Exception, match=r"num_workers.* is 0"):
        JobSpec.of("gang", num_workers=0)
    assert "RANK" not in os.environ
