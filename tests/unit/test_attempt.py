"""What the driver makes of failures, restarts and reports; without Spark and ZooKeeper."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from helpers import Nodes

import tfos.driver.attempt
import tfos.driver.watcher
from tfos.driver.attempt import Attempt
from tfos.errors import FeedError, LakeError
from tfos.fault.failures import Failure
from tfos.fault.policy import Incident, NewAttempt, Restart
from tfos.lake.run_directory import RunDirectory, checkpoint_name, checkpoint_path
from tfos.lake.storage import COMMIT
from tfos.runtime import keys
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import RegistryAddress
from tfos.runtime.roles import all_tasks
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task

CHIEF, PS, WORKER = Task("chief", 0), Task("ps", 0), Task("worker", 1)
START_SECS = 60


@pytest.fixture
def lake(tmp_path):
    return RunDirectory(str(tmp_path), "r")


@pytest.fixture
def nodes():
    return Nodes()


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(tfos.driver.attempt, "time", clock)
    monkeypatch.setattr(tfos.driver.watcher, "time", clock)
    return clock


@pytest.fixture
def make(lake, nodes, now):
    def make(history=(), **options):
        spec = JobSpec.of(start_timeout_secs=START_SECS, **options)
        address = RegistryAddress("h:1", "r", "secret")
        plan = AttemptPlan(spec, "r", 1, lake, address, "marker", {"host": "d", "pid": 1})
        display = SimpleNamespace(line=lambda text: None)
        feeds = SimpleNamespace(begin=lambda: None, check=lambda: None, is_writing=False)
        executors = SimpleNamespace(is_dynamic=False)
        attempt = Attempt(None, plan, nodes, display, list(history), feeds, executors)
        attempt._watcher.begin()
        attempt._order_lives(False)
        for task in all_tasks(spec):
            nodes.put(f"{keys.members('r', 1)}/{task}", {"host": f"host-of-{task}", "life": 1})
        attempt._failures()
        return attempt

    return make


@pytest.fixture
def attempt(make):
    return make()


def failure(task, kind="signal", life=1):
    return Failure(task.role, task.index, "h", kind, "died", time=1.0, attempt=1, life=life)


def commit(lake, step):
    lake.write(f"{checkpoint_path(checkpoint_name(step, '1.1'))}/{COMMIT}", b"{}")


def progressed(nodes, progress):
    nodes.put(keys.progress("r", 1), progress)


def restart(attempt, *tasks):
    attempt._restart(Restart(frozenset(map(str, tasks))), [failure(tasks[0])])


class TestIncident:
    def test_has_the_step_of_the_newest_checkpoint_though_nobody_told_of_it(self, attempt, lake):
        """As of a training loop of the user's own, or of a chief that died too early to tell."""
        for step in (5, 9):
            commit(lake, step)
            attempt._decide([failure(WORKER)])
        assert [incident.step for incident in attempt._history] == [5, 9]

    def test_never_goes_back(self, make, lake):
        """The newest checkpoint was damaged, and is gone."""
        attempt = make([Incident((failure(WORKER),), 9)])
        commit(lake, 5)
        attempt._decide([failure(WORKER)])
        assert attempt._history[-1].step == 9

    def test_with_a_lake_that_fails_has_the_step_that_was_told(self, attempt, nodes, monkeypatch):
        def fail(self):
            raise LakeError("no answer")

        monkeypatch.setattr(RunDirectory, "newest_checkpoint", fail)
        progressed(nodes, {"life": 1, "checkpoints": {"step": 7}})
        attempt._decide([failure(WORKER)])
        assert attempt._history[-1].step == 7


class TestGeneration:
    def test_is_written_when_the_chief_changes_and_else_left_alone(self, attempt, lake):
        assert lake.generation() == {"attempt": 1, "life": 1}
        lake.remove("generation.json")
        restart(attempt, WORKER)
        assert not lake.exists("generation.json")
        restart(attempt, CHIEF, PS)
        assert lake.generation() == {"attempt": 1, "life": 2}


class TestRestart:
    def test_that_does_not_come_up_in_time_is_a_failure(self, attempt, now):
        restart(attempt, WORKER)
        now.now += START_SECS
        assert attempt._failures() == []
        now.now += 1
        (late,) = attempt._failures()
        assert (late.task, late.kind, late.life, late.host) == (
            "worker-1", "start", 2, "host-of-worker-1",
        )  # fmt: skip
        assert "--start-timeout-secs" in late.message
        assert attempt._decide([late]) == NewAttempt()

    def test_that_is_up_may_go_on_for_ever(self, attempt, now, nodes):
        restart(attempt, CHIEF, PS, WORKER)
        for task in (PS, WORKER):
            nodes.put(f"{keys.ready('r', 1)}/{task}", 2)
        progressed(nodes, {"phase": "train() begins", "life": 2})
        assert attempt._failures() == []
        now.now += 10 * START_SECS
        assert attempt._failures() == []

    def test_last_lifes_signs_do_not_count(self, attempt, now, nodes):
        for task in (PS, WORKER):
            nodes.put(f"{keys.ready('r', 1)}/{task}", 1)
        progressed(nodes, {"phase": "train", "life": 1})
        restart(attempt, CHIEF, PS)
        now.now += START_SECS + 1
        assert [late.task for late in attempt._failures()] == ["chief-0", "ps-0"]

    def test_each_restart_has_the_whole_time(self, attempt, now):
        restart(attempt, WORKER)
        now.now += START_SECS - 1
        restart(attempt, PS, CHIEF)
        now.now += START_SECS - 1
        assert attempt._failures() == []
        now.now += 2
        assert len(attempt._failures()) == 3

    def test_with_a_pause_is_ordered_after_it_and_has_its_time_from_then_on(
        self, attempt, now, nodes
    ):
        nodes.put(f"{keys.failures('r', 1)}/{WORKER}.1", failure(WORKER).as_json())
        attempt._restart(Restart(frozenset({str(WORKER)}), 5.0), [failure(WORKER)])
        assert attempt._failures() == [], "it is dealt with"
        now.now += 4.0
        assert attempt._step() is None
        assert nodes.get(keys.lives("r", 1))["lives"]["worker-1"] == 1
        now.now += 1.0
        assert attempt._step() is None
        assert nodes.get(keys.lives("r", 1))["lives"]["worker-1"] == 2
        now.now += START_SECS
        assert attempt._failures() == []
        now.now += 1.0
        assert [late.task for late in attempt._failures()] == ["worker-1"]

    def test_that_does_not_wait_ends_the_pause_of_another(self, attempt, nodes):
        """Else the next chief would wait for, or count on, a process that is not there."""
        attempt._restart(Restart(frozenset({str(WORKER)}), 5.0), [failure(WORKER)])
        restart(attempt, CHIEF, PS)
        assert nodes.get(keys.lives("r", 1))["lives"] == {
            "chief-0": 2, "ps-0": 2, "worker-0": 1, "worker-1": 2,
        }  # fmt: skip

    def test_other_failures_come_first(self, attempt, now, nodes):
        restart(attempt, WORKER)
        now.now += START_SECS + 1
        nodes.put(f"{keys.failures('r', 1)}/ps-0.1", failure(PS).as_json())
        assert [found.task for found in attempt._failures()] == ["ps-0"]


class TestCheckpoints:
    def test_are_kept_for_each_life_of_the_chief(self, attempt, nodes):
        for life, saved in ((1, 2), (1, 3), (2, 1)):
            progressed(nodes, {"life": life, "checkpoints": {"saved": saved}})
        progressed(nodes, {"life": 2})
        assert attempt.checkpoints == {1: {"saved": 3}, 2: {"saved": 1}}


class TestFeeds:
    def test_are_begun_when_all_roles_have_their_slots(self, attempt, nodes):
        begun = []
        attempt._feeds.begin = lambda: begun.append(True)
        worker = f"{keys.members('r', 1)}/{WORKER}"
        nodes.remove(worker)
        attempt._step()
        assert not begun
        nodes.put(worker, {"host": "h", "life": 1})
        attempt._step()
        assert begun

    def test_that_fail_end_the_attempt(self, attempt):
        def check():
            raise FeedError("a null")

        attempt._feeds.check = check
        with pytest.raises(FeedError, match="a null"):
            attempt._feed()

    def test_that_have_no_slot_for_long_get_those_of_the_roles(self, attempt, now, monkeypatch):
        slots = [5]
        monkeypatch.setattr("tfos.driver.preflight.available_slots", lambda spark: slots[0])
        attempt._feeds.is_writing = True

        def starves(secs):
            now.now += secs
            return attempt._feed()

        assert not starves(10 * START_SECS)
        slots[0] = 4  # as many as there are roles
        assert not starves(START_SECS - 1)
        slots[0] = 5
        assert not starves(START_SECS - 1)
        slots[0] = 4
        assert [starves(START_SECS - 1), starves(2)] == [False, True]
        attempt._feeds.is_writing = False
        assert not starves(10 * START_SECS)
