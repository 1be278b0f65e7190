"""What the driver takes for a failure: of the nodes as they were seen, the time, and the jobs."""

from __future__ import annotations

import pytest

from tfos.driver.detector import Detector, failed_task
from tfos.fault.failures import Failure, FailureKind
from tfos.runtime.nodes import AttemptNodes
from tfos.spec.job import JobSpec
from tfos.spec.roles import RoleJob, Task
from tfos.spec.times import TIMES

CHIEF, PS, WORKER = Task("chief", 0), Task("ps", 0), Task("worker", 1)
SPEC = JobSpec.of(start_timeout_secs=60, num_workers=2)
HERE = {str(task): {"host": f"host-of-{task}"} for task in Detector(SPEC, 1, 0.0).lives}
AT = 1.7e9


@pytest.fixture
def detector():
    return Detector(SPEC, 3, 0.0)


def found(detector, now=1.0, members=HERE, jobs=(), is_settled=True, **nodes):
    return detector.failures(
        AttemptNodes(members=members, **nodes), dict(jobs), is_settled, now, AT
    )


def without(*tasks):
    return {name: record for name, record in HERE.items() if name not in map(str, tasks)}


class TestTold:
    @pytest.mark.parametrize(("life", "counts"), [(0, True), (1, False), (2, True), (3, False)])
    def test_counts_in_the_present_life_or_when_there_was_none(self, detector, life, counts):
        detector.restarted([WORKER], 0.0)
        told = Failure("worker", 1, "h", "exit", "x", life=life)
        failures = {f"worker-1.{life}": told.as_json()}
        assert found(detector, failures=failures) == ([told] if counts else [])

    @pytest.mark.parametrize(
        ("strategy", "kind", "may_echo"),
        [
            ("gang", "exception", True), ("gang", "crash", True), ("gang", "signal", False),
            ("gang", "exit", False), ("gang", "hang", False), ("gang", "peer", False),
            ("multi-worker", "exception", False), ("multi-worker", "crash", False),
        ],
    )  # fmt: skip
    def test_may_be_an_echo_where_the_strategy_says_so(self, strategy, kind, may_echo):
        detector = Detector(JobSpec.of(strategy, num_workers=3), 1, 0.0)
        members = {str(task): {"host": "h"} for task in detector.lives}
        told = Failure("worker", 1, "h", kind, "x", life=1)
        (seen,) = found(detector, members=members, failures={"worker-1.1": told.as_json()})
        assert seen.may_echo is may_echo
        assert seen.as_json() == told.as_json()

    def test_alone_in_a_gang_there_is_nobody_to_hear(self):
        detector = Detector(JobSpec.of("gang", num_workers=1), 1, 0.0)
        told = Failure("chief", 0, "h", "exception", "x", life=1)
        (seen,) = found(detector, members={"chief-0": {}}, failures={"chief-0.1": told.as_json()})
        assert not seen.may_echo


class TestGone:
    def test_is_who_was_there_and_is_missing_for_long(self, detector):
        assert found(detector, 0.0) == []
        assert found(detector, 1.0, without(WORKER)) == []
        assert found(detector, 1.0 + TIMES.missing_secs, without(WORKER)) == []
        (gone,) = found(detector, 1.1 + TIMES.missing_secs, without(WORKER))
        assert gone == Failure(
            "worker", 1, "host-of-worker-1", FailureKind.SPARK, gone.message, time=AT,
            attempt=3, life=1,
        )  # fmt: skip
        assert "its supervisor is gone" in gone.message

    def test_is_not_who_comes_back(self, detector):
        found(detector, 0.0)
        found(detector, 1.0, without(WORKER))
        found(detector, TIMES.missing_secs)
        assert found(detector, 2 * TIMES.missing_secs, without(WORKER)) == []

    def test_is_not_who_never_came(self, detector):
        for now in (0.0, 10 * TIMES.missing_secs):
            assert found(detector, now, without(WORKER)) == []

    def test_is_nobody_after_an_outage(self, detector):
        found(detector, 0.0)
        found(detector, 1.0, {})
        assert found(detector, 10 * TIMES.missing_secs, {}, is_settled=False) == []


class TestJobs:
    def test_end_of_one_is_a_failure(self, detector):
        found(detector)
        (ended,) = found(detector, jobs={"ps": "boom"})
        assert (ended.task, ended.kind, ended.host) == ("ps-0", "spark", "host-of-ps-0")
        assert ended.message == "the Spark job of the ps roles ended: boom"

    def test_host_of_one_that_never_registered_is_not_the_drivers(self, detector):
        (ended,) = found(detector, members={}, jobs={"ps": "boom"})
        assert ended.host == "unknown host"


class TestFailedTask:
    JOB = RoleJob("train", (CHIEF, Task("worker", 0), WORKER))
    WORDS = "Job aborted: barrier task ResultTask(3, 2) finished unsuccessfully"

    def test_is_the_one_that_spark_names(self):
        assert failed_task(self.WORDS, self.JOB, told={"chief-0"}) == WORKER

    def test_else_the_one_that_told_of_it_or_is_missing(self):
        assert failed_task("Job cancelled", self.JOB, {"worker-1"}, {"worker-0"}) == WORKER
        assert failed_task("Job cancelled", self.JOB, (), {"worker-1"}) == WORKER
        assert failed_task("Job cancelled", self.JOB) == CHIEF


class TestNotUp:
    def test_is_who_never_came_or_is_not_ready(self, detector):
        nodes = AttemptNodes(members=without(PS), ready={"worker-0": 1})
        words = "never registered: ps-0; TensorFlow not up: worker-1"
        assert detector.not_up(nodes) == words

    def test_else_the_chief(self, detector):
        ready = dict.fromkeys(without(CHIEF), 1)
        nodes = AttemptNodes(members=HERE, ready=ready)
        assert detector.not_up(nodes) == "train() not begun: chief-0"
