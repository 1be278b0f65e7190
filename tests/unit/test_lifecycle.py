"""The supervisor's machine: (state, event) -> actions, with nothing around it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.runtime.lifecycle import (
    AnnouncePreempted,
    AnnounceReady,
    Begin,
    End,
    Ended,
    Exited,
    Lifecycle,
    Lives,
    Members,
    Preempted,
    PublishFailure,
    PublishOutcome,
    PublishProgress,
    Ready,
    Said,
    SaveSoon,
    Start,
)
from tfos.runtime.protocol import (
    Failed,
    GotSigterm,
    IsReady,
    Moved,
    Outcome,
    Progress,
    Quiet,
)
from tfos.runtime.roles import all_tasks
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task

SPEC = JobSpec.of(num_ps=1, num_workers=2)
TASKS = all_tasks(SPEC)
CHIEF, PS, WORKER = Task("chief", 0), Task("ps", 0), Task("worker", 1)
SERVERS = SPEC.topology.waits_for(CHIEF)
ADDRESSES = {task: f"10.0.0.{i}:99" for i, task in enumerate(TASKS)}
CLUSTER = {
    "chief": [ADDRESSES[CHIEF]],
    "ps": [ADDRESSES[PS]],
    "worker": [ADDRESSES[Task("worker", 0)], ADDRESSES[WORKER]],
}
START = Start(CLUSTER)


def all_in(life, **others):
    """{task: life}, but for those named: worker_1=2."""
    lives = dict.fromkeys(TASKS, life)
    lives.update({Task.parse(name.replace("_", "-")): number for name, number in others.items()})
    return lives


def ready_in(life, **others):
    return Ready({t: n for t, n in all_in(life, **others).items() if t in SERVERS and n})


def lifecycle(task):
    return Lifecycle(task, frozenset(TASKS), SPEC.topology.waits_for(task))


def begun(task):
    machine = lifecycle(task)
    assert machine.on(Lives(all_in(1))) == [Begin(1, False)]
    return machine


def started(task):
    machine = begun(task)
    assert machine.on(ready_in(1)) == []
    assert machine.on(Members(ADDRESSES)) == [START]
    return machine


class TestBegin:
    def test_waits_for_the_driver(self):
        machine = lifecycle(PS)
        assert machine.on(Members(ADDRESSES)) == []
        assert machine.on(ready_in(1)) == []
        assert machine.life == 0
        assert machine.on(Lives(all_in(1))) == [Begin(1, False), START]
        assert machine.life == 1

    def test_is_ordered_once(self):
        machine = begun(PS)
        assert machine.on(Lives(all_in(1))) == []

    @pytest.mark.parametrize("hung", [False, True])
    def test_next_life_begins_while_the_last_one_runs(self, hung):
        machine = started(WORKER)
        assert machine.on(Lives(all_in(1, worker_1=2), hung)) == [Begin(2, hung), START]

    def test_next_life_begins_after_the_last_ones_end(self):
        machine = started(WORKER)
        machine.on(Exited(1, -9))
        assert machine.on(Lives(all_in(1, worker_1=2))) == [Begin(2, False), START]

    def test_life_of_another_task_is_nothing_to_us(self):
        machine = started(WORKER)
        assert machine.on(Lives(all_in(1, worker_0=5, ps_0=2, chief_0=2), hung=True)) == []
        assert machine.life == 1

    def test_late_order_does_not_bring_an_old_life_back(self):
        machine = started(WORKER)
        machine.on(Lives(all_in(3)))
        assert machine.on(Lives(all_in(2))) == []
        assert machine.life == 3

    def test_supervisor_that_missed_a_life_begins_the_newest(self):
        assert lifecycle(PS).on(Lives(all_in(4))) == [Begin(4, False)]


class TestStart:
    @pytest.mark.parametrize("task", [PS, WORKER])
    def test_server_starts_when_all_members_are_there(self, task):
        for missing in TASKS:
            some = {t: a for t, a in ADDRESSES.items() if t != missing}
            assert begun(task).on(Members(some)) == []
        assert begun(task).on(Members(ADDRESSES)) == [START]

    def test_members_may_come_one_by_one(self):
        machine = begun(PS)
        answers = [machine.on(Members({task: ADDRESSES[task]})) for task in TASKS]
        assert answers == [[]] * (len(TASKS) - 1) + [[START]]

    def test_is_ordered_once(self):
        machine = started(PS)
        assert machine.on(Members(ADDRESSES)) == []
        assert machine.on(ready_in(1)) == []
        assert machine.on(Lives(all_in(1))) == []

    def test_chief_waits_for_each_server(self):
        for missing in SERVERS:
            machine = begun(CHIEF)
            some = dict.fromkeys(SERVERS - {missing}, 1)
            assert machine.on(Members(ADDRESSES)) == []
            assert machine.on(Ready(some)) == []
            assert machine.on(ready_in(1)) == [START]

    def test_server_that_went_away_again_is_not_ready(self):
        machine = begun(CHIEF)
        assert machine.on(ready_in(1)) == []
        assert machine.on(ready_in(1, worker_1=0)) == []
        assert machine.on(Members(ADDRESSES)) == []
        assert machine.on(ready_in(1)) == [START]

    def test_single_chief_needs_nobody(self):
        machine = Lifecycle(CHIEF, frozenset([CHIEF]), frozenset())
        assert machine.on(Members({CHIEF: "a:1"})) == []
        assert machine.on(Lives({CHIEF: 1})) == [Begin(1, False), Start({"chief": ["a:1"]})]

    def test_next_life_of_a_server_starts_at_once(self):
        """The addresses are those of the supervisors, who keep them."""
        machine = started(PS)
        assert machine.on(Lives(all_in(1, ps_0=2, chief_0=2)))[1:] == [START]


class TestChiefsNextLife:
    def test_waits_for_the_ready_life_that_is_wanted(self):
        machine = started(CHIEF)
        assert machine.on(Lives(all_in(1, ps_0=2, chief_0=2))) == [Begin(2, False)]
        assert machine.on(ready_in(1)) == []  # the server that is about to be replaced
        assert machine.on(ready_in(1, ps_0=0)) == []
        assert machine.on(ready_in(1, ps_0=2)) == [START]

    def test_ready_may_come_before_the_order(self):
        """The registry's two watches know of no order among each other."""
        machine = started(CHIEF)
        assert machine.on(ready_in(1, ps_0=2)) == []
        assert machine.on(Lives(all_in(1, ps_0=2, chief_0=2))) == [Begin(2, False), START]

    def test_waits_for_a_worker_that_dies_meanwhile(self):
        machine = started(CHIEF)
        machine.on(Lives(all_in(1, ps_0=2, chief_0=2)))
        assert machine.on(Lives(all_in(1, ps_0=2, chief_0=2, worker_0=2))) == []
        assert machine.on(ready_in(1, ps_0=2)) == []
        assert machine.on(ready_in(1, ps_0=2, worker_0=2)) == [START]

    def test_server_that_is_further_than_we_know_is_not_wanted_yet(self):
        machine = begun(CHIEF)
        machine.on(Members(ADDRESSES))
        assert machine.on(ready_in(1, worker_0=2)) == []
        assert machine.on(Lives(all_in(1, worker_0=2))) == [START]

    def test_started_chief_does_not_care_for_a_worker_that_is_replaced(self):
        machine = started(CHIEF)
        assert machine.on(Lives(all_in(1, worker_0=2))) == []
        assert machine.on(ready_in(1, worker_0=0)) == []
        assert machine.on(ready_in(1, worker_0=2)) == []


class TestMessages:
    def test_ready_is_announced_with_its_life(self):
        assert started(PS).on(Said(1, IsReady())) == [AnnounceReady(1)]
        machine = started(PS)
        machine.on(Lives(all_in(2)))
        assert machine.on(Said(2, IsReady())) == [AnnounceReady(2)]

    def test_progress_is_published(self):
        said = Said(1, Progress({"epoch": 1}))
        assert started(CHIEF).on(said) == [PublishProgress({"epoch": 1})]

    @pytest.mark.parametrize("task", [CHIEF, PS, WORKER])
    def test_preemption_is_announced_with_its_life(self, task):
        assert started(task).on(Said(1, GotSigterm())) == [AnnouncePreempted(1)]

    @pytest.mark.parametrize("message", [Outcome({}), Failed("exit", "x"), Moved(), Quiet(True)])
    def test_others_wait_for_the_exit_or_are_for_the_hang_watch(self, message):
        assert started(CHIEF).on(Said(1, message)) == []

    @pytest.mark.parametrize("message", [IsReady(), Progress({}), GotSigterm(), Outcome({})])
    @pytest.mark.parametrize("life", [0, 1, 3])
    def test_of_a_process_that_is_not_ours_any_more_are_ignored(self, message, life):
        machine = started(CHIEF)
        machine.on(Lives(all_in(2)))
        assert machine.on(Said(life, message)) == []
        # nor is its outcome taken for that of the next one
        assert machine.on(Exited(2, 0)) == [PublishFailure(2, None, 0)]

    @pytest.mark.parametrize("event", [Said(0, IsReady()), Exited(0, 0)])
    def test_before_the_first_life_are_ignored(self, event):
        assert lifecycle(PS).on(event) == []


class TestExit:
    def test_with_outcome_succeeds(self):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({"metrics": {"auc": 0.9}})))
        actions = machine.on(Exited(1, 0))
        assert actions[0] == PublishOutcome({"metrics": {"auc": 0.9}})
        assert isinstance(actions[1], End)
        assert len(actions) == 2

    def test_empty_outcome_is_an_outcome(self):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({})))
        assert machine.on(Exited(1, 0))[0] == PublishOutcome({})

    def test_without_outcome_is_a_failure_even_with_status_0(self):
        assert started(CHIEF).on(Exited(1, 0)) == [PublishFailure(1, None, 0)]

    @pytest.mark.parametrize("status", [1, -9])
    def test_bad_status_is_a_failure_even_with_outcome(self, status):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({})))
        assert machine.on(Exited(1, status)) == [PublishFailure(1, None, status)]

    def test_failure_is_passed_through_and_the_supervisor_stays(self):
        machine = started(WORKER)
        said = Failed("exception", "ValueError: x", "...")
        machine.on(Said(1, said))
        assert machine.on(Exited(1, 1)) == [PublishFailure(1, said, 1)]
        assert machine.on(Lives(all_in(1, worker_1=2)))[0] == Begin(2, False)

    def test_what_a_process_told_first_is_not_replaced_by_what_follows(self):
        """It may not end at its failure, and is then ended for a hang."""
        machine = started(WORKER)
        machine.on(Said(1, Failed("exception", "x")))
        machine.on(Said(1, Failed("hang", "x")))
        assert machine.on(Exited(1, -9)) == [PublishFailure(1, Failed("exception", "x"), -9)]

    def test_failure_of_one_life_is_not_that_of_the_next(self):
        machine = started(WORKER)
        machine.on(Said(1, Failed("exception", "x")))
        machine.on(Exited(1, 1))
        machine.on(Lives(all_in(1, worker_1=2)))
        assert machine.on(Exited(2, -9)) == [PublishFailure(2, None, -9)]

    @pytest.mark.parametrize("status", [0, -9])
    def test_of_a_process_that_was_replaced_is_ignored(self, status):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({"stale": True})))
        machine.on(Lives(all_in(2)))
        assert machine.on(Exited(1, status)) == []
        machine.on(Said(2, Outcome({"fresh": True})))
        assert machine.on(Exited(2, 0))[0] == PublishOutcome({"fresh": True})

    def test_outcome_of_one_life_is_not_that_of_the_next(self):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({"stale": True})))
        machine.on(Lives(all_in(2)))
        assert machine.on(Exited(2, 0)) == [PublishFailure(2, None, 0)]

    def test_before_the_start_is_a_failure(self):
        assert begun(PS).on(Exited(1, -11)) == [PublishFailure(1, None, -11)]


class TestPreempted:
    def test_started_chief_saves(self):
        machine = started(CHIEF)
        assert machine.on(Preempted()) == [SaveSoon()]
        assert machine.on(Preempted()) == [SaveSoon()]

    def test_chief_that_has_not_started_has_nothing_to_save(self):
        assert lifecycle(CHIEF).on(Preempted()) == []
        assert begun(CHIEF).on(Preempted()) == []
        machine = started(CHIEF)
        machine.on(Lives(all_in(1, ps_0=2, chief_0=2)))
        assert machine.on(Preempted()) == []

    @pytest.mark.parametrize("task", [PS, WORKER])
    def test_is_the_chiefs_business(self, task):
        assert started(task).on(Preempted()) == []


class TestEnd:
    @pytest.mark.parametrize("make", [lifecycle, begun, started])
    @pytest.mark.parametrize("task", [CHIEF, WORKER])
    def test_ends_in_any_state_and_says_why(self, make, task):
        assert make(task).on(Ended("the driver is gone")) == [End("the driver is gone")]

    @pytest.mark.parametrize("last", [Ended("enough"), Exited(1, 0)])
    @pytest.mark.parametrize(
        "event",
        [
            Members(ADDRESSES),
            Lives(all_in(2)),
            ready_in(1),
            Said(1, IsReady()),
            Said(1, Progress({})),
            Exited(1, 1),
            Preempted(),
            Ended("again"),
        ],
    )
    def test_nothing_happens_after_the_end(self, last, event):
        machine = started(CHIEF)
        machine.on(Said(1, Outcome({})))
        assert isinstance(machine.on(last)[-1], End)
        assert machine.on(event) == []


class TestInStep:
    """Under multi-worker each process is ready when it is there, and none starts before all are."""

    SPEC = JobSpec.of(strategy="multi-worker", num_workers=3)
    TASKS = all_tasks(SPEC)
    ADDRESSES: ClassVar = {task: f"10.0.0.{i}:99" for i, task in enumerate(TASKS)}

    def lifecycle(self, task):
        return Lifecycle(
            task, frozenset(self.TASKS), self.SPEC.topology.waits_for(task), is_ready_at_once=True
        )

    def lives(self, life, **others):
        names = {Task.parse(name.replace("_", "-")): n for name, n in others.items()}
        return {**dict.fromkeys(self.TASKS, life), **names}

    def started(self, task):
        machine = self.lifecycle(task)
        machine.on(Members(self.ADDRESSES))
        machine.on(Lives(self.lives(1)))
        (start,) = machine.on(Ready(self.lives(1)))
        assert start.addresses == {
            "chief": [self.ADDRESSES[CHIEF]],
            "worker": [self.ADDRESSES[Task("worker", i)] for i in range(2)],
        }
        return machine

    @pytest.mark.parametrize("task", TASKS)
    def test_is_ready_as_soon_as_its_process_is_there(self, task):
        assert self.lifecycle(task).on(Lives(self.lives(1))) == [Begin(1, False), AnnounceReady(1)]

    def test_what_the_process_says_of_it_is_no_news(self):
        assert self.started(WORKER).on(Said(1, IsReady())) == []

    @pytest.mark.parametrize("task", TASKS)
    def test_starts_when_all_are_ready_in_the_life_that_is_ordered(self, task):
        machine = self.lifecycle(task)
        machine.on(Members(self.ADDRESSES))
        machine.on(Lives(self.lives(2)))
        for late in self.TASKS:
            assert machine.on(Ready({**self.lives(2), late: 1})) == []
            assert machine.on(Ready({t: 2 for t in self.TASKS if t != late})) == []
        (start,) = machine.on(Ready(self.lives(2)))
        assert isinstance(start, Start)

    def test_next_life_waits_for_the_next_life_of_all(self):
        """A process of the last life on the same port would be taken for one of this."""
        machine = self.started(WORKER)
        assert machine.on(Lives(self.lives(2))) == [Begin(2, False), AnnounceReady(2)]
        assert machine.on(Ready(self.lives(2, chief_0=1))) == []
        (start,) = machine.on(Ready(self.lives(2)))
        assert isinstance(start, Start)

    def test_workers_outcome_ends_it_without_being_published(self):
        machine = self.started(WORKER)
        machine.on(Said(1, Outcome({"metrics": {}})))
        (end,) = machine.on(Exited(1, 0))
        assert isinstance(end, End)

    def test_chiefs_outcome_is_published(self):
        machine = self.started(CHIEF)
        machine.on(Said(1, Outcome({"metrics": {"auc": 1.0}})))
        assert machine.on(Exited(1, 0))[0] == PublishOutcome({"metrics": {"auc": 1.0}})

    def test_worker_that_ends_without_an_outcome_has_failed(self):
        assert self.started(WORKER).on(Exited(1, 0)) == [PublishFailure(1, None, 0)]


lives = st.builds(
    Lives,
    st.lists(st.integers(1, 3), min_size=len(TASKS), max_size=len(TASKS)).map(
        lambda numbers: dict(zip(TASKS, numbers, strict=True))
    ),
    st.booleans(),
)
events = st.one_of(
    st.builds(
        lambda tasks: Members({task: ADDRESSES[task] for task in tasks}),
        st.sets(st.sampled_from(TASKS)),
    ),
    st.just(Members(ADDRESSES)),
    lives,
    st.integers(1, 3).map(lambda life: Lives(all_in(life))),
    st.dictionaries(st.sampled_from(sorted(SERVERS)), st.integers(1, 3)).map(Ready),
    st.integers(1, 3).map(ready_in),
    st.builds(
        Said,
        st.integers(0, 3),
        st.sampled_from([IsReady(), Progress({}), Outcome({}), {"failure": {}}, {"preempted": 1}]),
    ),
    st.builds(Exited, st.integers(0, 3), st.sampled_from([0, 1, -9])),
    st.just(Preempted()),
    st.just(Ended("enough")),
)


class TestWhateverHappens:
    @settings(max_examples=400, deadline=None)
    @given(st.sampled_from([CHIEF, PS, WORKER]), st.lists(events, max_size=30))
    def test_a_life_begins_and_starts_at_most_once_and_nothing_follows_the_end(self, task, story):
        machine = lifecycle(task)
        current = 0
        begins, starts, over = [], [], False
        wanted, ready = {}, {}
        for event in story:
            actions = machine.on(event)
            assert not over or not actions
            if isinstance(event, Lives):
                wanted = event.lives
            if isinstance(event, Ready):
                ready = event.lives
            for action in actions:
                assert not over
                match action:
                    case Begin(life, _):
                        assert life > current
                        current = life
                        begins.append(life)
                    case Start(addresses):
                        assert current > 0
                        assert addresses == CLUSTER
                        if task == CHIEF:
                            assert all(ready.get(s) == wanted[s] for s in SERVERS)
                        starts.append(current)
                    case AnnounceReady(life) | AnnouncePreempted(life) | PublishFailure(life):
                        assert life == current > 0
                        assert event.life == life
                    case SaveSoon():
                        assert starts and starts[-1] == current
                    case End():
                        over = True
        assert len(set(begins)) == len(begins)
        assert len(set(starts)) == len(starts)
        assert set(starts) <= set(begins)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_starts_exactly_once_whatever_the_order_of_events(self, data):
        task = data.draw(st.sampled_from(TASKS))
        arrivals = [("lives", None), *[("member", t) for t in TASKS]]
        arrivals += [("ready", t) for t in sorted(SERVERS)]
        here: dict[Task, str] = {}
        ready: dict[Task, int] = {}
        wanted = False
        machine = lifecycle(task)
        starts = 0
        for kind, other in data.draw(st.permutations(arrivals)):
            if kind == "member":
                here[other] = ADDRESSES[other]
                actions = machine.on(Members(dict(here)))
            elif kind == "ready":
                ready[other] = 1
                actions = machine.on(Ready(dict(ready)))
            else:
                wanted = True
                actions = machine.on(Lives(all_in(1)))
                assert actions.pop(0) == Begin(1, False)
            complete = wanted and here == ADDRESSES and (task != CHIEF or set(ready) == SERVERS)
            assert actions == ([START] if complete and not starts else [])
            starts += len(actions)
        assert starts == 1
