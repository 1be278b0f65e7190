"""The supervisor's machine: (state, event) -> actions, with nothing around it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.runtime.lifecycle import (
    AnnounceReady,
    End,
    Ended,
    Exited,
    Lifecycle,
    Members,
    PublishFailure,
    PublishOutcome,
    PublishProgress,
    Ready,
    Said,
    Start,
)
from tfos.runtime.roles import Task, all_tasks, servers
from tfos.spec import JobSpec

SPEC = JobSpec(num_ps=1, num_workers=2)
TASKS = all_tasks(SPEC)
SERVERS = servers(SPEC)
CHIEF, PS, WORKER = Task("chief", 0), Task("ps", 0), Task("worker", 1)
ADDRESSES = {task: f"10.0.0.{i}:99" for i, task in enumerate(TASKS)}
CLUSTER = {
    "chief": [ADDRESSES[CHIEF]],
    "ps": [ADDRESSES[PS]],
    "worker": [ADDRESSES[Task("worker", 0)], ADDRESSES[WORKER]],
}


def lifecycle(task):
    return Lifecycle(task, frozenset(TASKS), SERVERS)


def started(task):
    machine = lifecycle(task)
    machine.on(Ready(SERVERS))
    assert machine.on(Members(ADDRESSES)) == [Start(CLUSTER)]
    return machine


class TestStart:
    @pytest.mark.parametrize("task", [PS, WORKER])
    def test_server_starts_when_all_members_are_there(self, task):
        machine = lifecycle(task)
        for missing in TASKS:
            some = {t: a for t, a in ADDRESSES.items() if t != missing}
            assert lifecycle(task).on(Members(some)) == []
        assert machine.on(Members(ADDRESSES)) == [Start(CLUSTER)]

    def test_members_may_come_one_by_one(self):
        machine = lifecycle(PS)
        answers = [machine.on(Members({task: ADDRESSES[task]})) for task in TASKS]
        assert answers == [[]] * (len(TASKS) - 1) + [[Start(CLUSTER)]]

    def test_start_is_ordered_once(self):
        machine = started(PS)
        assert machine.on(Members(ADDRESSES)) == []
        assert machine.on(Ready(SERVERS)) == []

    def test_chief_waits_for_each_server(self):
        for missing in SERVERS:
            machine = lifecycle(CHIEF)
            assert machine.on(Members(ADDRESSES)) == []
            assert machine.on(Ready(SERVERS - {missing})) == []
            assert machine.on(Ready(SERVERS)) == [Start(CLUSTER)]

    def test_server_that_went_away_again_is_not_ready(self):
        machine = lifecycle(CHIEF)
        assert machine.on(Ready(SERVERS)) == []
        assert machine.on(Ready(SERVERS - {WORKER})) == []
        assert machine.on(Members(ADDRESSES)) == []
        assert machine.on(Ready(SERVERS)) == [Start(CLUSTER)]

    def test_single_chief_needs_nobody(self):
        machine = Lifecycle(CHIEF, frozenset([CHIEF]), frozenset())
        assert machine.on(Members({CHIEF: "a:1"})) == [Start({"chief": ["a:1"]})]

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_starts_exactly_once_whatever_the_order_of_events(self, data):
        task = data.draw(st.sampled_from(TASKS))
        arrivals = [("member", t) for t in TASKS] + [("ready", t) for t in sorted(SERVERS)]
        here: set[Task] = set()
        ready: set[Task] = set()
        machine = lifecycle(task)
        starts = 0
        for kind, other in data.draw(st.permutations(arrivals)):
            if kind == "member":
                here.add(other)
                actions = machine.on(Members({t: ADDRESSES[t] for t in here}))
            else:
                ready.add(other)
                actions = machine.on(Ready(frozenset(ready)))
            complete = here == set(TASKS) and (task != CHIEF or ready == SERVERS)
            assert actions == ([Start(CLUSTER)] if complete and not starts else [])
            starts += len(actions)
        assert starts == 1


class TestMessages:
    def test_ready_is_announced(self):
        assert started(PS).on(Said({"ready": True})) == [AnnounceReady()]

    def test_progress_is_published(self):
        said = Said({"progress": {"epoch": 1}})
        assert started(CHIEF).on(said) == [PublishProgress({"epoch": 1})]

    @pytest.mark.parametrize("message", [{"outcome": {}}, {"failure": {"kind": "exit"}}])
    def test_outcome_and_failure_wait_for_the_exit(self, message):
        assert started(CHIEF).on(Said(message)) == []


class TestExit:
    def test_with_outcome_succeeds(self):
        machine = started(CHIEF)
        machine.on(Said({"outcome": {"metrics": {"auc": 0.9}}}))
        actions = machine.on(Exited(0))
        assert actions[0] == PublishOutcome({"metrics": {"auc": 0.9}})
        assert isinstance(actions[1], End)

    def test_empty_outcome_is_an_outcome(self):
        machine = started(CHIEF)
        machine.on(Said({"outcome": {}}))
        assert machine.on(Exited(0))[0] == PublishOutcome({})

    def test_without_outcome_is_a_failure_even_with_status_0(self):
        assert started(CHIEF).on(Exited(0))[0] == PublishFailure(None, 0)

    @pytest.mark.parametrize("status", [1, -9])
    def test_bad_status_is_a_failure_even_with_outcome(self, status):
        machine = started(CHIEF)
        machine.on(Said({"outcome": {}}))
        assert machine.on(Exited(status))[0] == PublishFailure(None, status)

    def test_failure_is_passed_through(self):
        machine = started(WORKER)
        said = {"kind": "exception", "message": "ValueError: x", "traceback": "..."}
        machine.on(Said({"failure": said}))
        actions = machine.on(Exited(1))
        assert actions[0] == PublishFailure(said, 1)
        assert isinstance(actions[1], End)

    def test_before_the_start_is_a_failure(self):
        assert lifecycle(PS).on(Exited(-11))[0] == PublishFailure(None, -11)


class TestEnd:
    @pytest.mark.parametrize("make", [lifecycle, started])
    def test_ends_in_any_state_and_says_why(self, make):
        assert make(WORKER).on(Ended("the driver is gone")) == [End("the driver is gone")]

    @pytest.mark.parametrize("last", [Ended("enough"), Exited(0), Exited(1)])
    @pytest.mark.parametrize(
        "event",
        [
            Members(ADDRESSES),
            Ready(SERVERS),
            Said({"ready": True}),
            Said({"progress": {}}),
            Exited(1),
            Ended("again"),
        ],
    )
    def test_nothing_happens_after_the_end(self, last, event):
        machine = lifecycle(PS)
        machine.on(last)
        assert machine.on(event) == []
