"""What is done about a failure: a pure function of the failures so far."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos.fault.failures import Failure
from tfos.fault.policy import GiveUp, Incident, NewAttempt, Restart, decide
from tfos.spec.times import TIMES
from tfos.spec.topology import find

TASKS = [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
# the second of the same of these is no accident
DETERMINISTIC = ["exception", "crash", "exit", "start", "hang"]
ACCIDENTAL = ["signal", "preempted", "spark", "peer"]
BUDGET = 3
PS, MULTI_WORKER, SINGLE = (find(name).of({}) for name in ("ps", "multi-worker", "single"))
GANG = find("gang").of({"num_workers": 3})


def failure(task, kind="signal", message=None, time=1.0):
    role, _, index = task.partition("-")
    words = message or f"{task} ended by {kind}"
    return Failure(role, int(index), f"host-of-{task}", kind, words, time=time)


def incident(*failures, step=0):
    return Incident(failures, step)


def once(*failures):
    return decide([incident(*failures)], BUDGET, PS)


def restart(*names):
    return Restart(frozenset(names))


def taken(decision, tasks=TASKS):
    return [f"{role}-{index}" for role, index in tasks if decision.includes(role, index)]


STATE = ["chief-0", "ps-0", "ps-1"]


class TestRestart:
    @pytest.mark.parametrize(
        "kind", ["signal", "crash", "exit", "exception", "hang", "peer", "preempted"]
    )
    def test_worker_alone(self, kind):
        assert once(failure("worker-1", kind)) == restart("worker-1")

    @pytest.mark.parametrize("kind", ["signal", "crash", "exit", "peer", "preempted"])
    def test_chief_takes_the_state_along_and_no_worker(self, kind):
        assert taken(once(failure("chief-0", kind))) == STATE

    @pytest.mark.parametrize("kind", ["signal", "crash", "exit", "peer", "preempted", "hang"])
    def test_server_takes_all_along(self, kind):
        """Workers that had tried to reach it would not try again for a second, and fail."""
        assert all(once(failure("ps-1", kind)).includes(*task) for task in TASKS)

    def test_exception_of_a_ps_is_a_restart(self):
        assert once(failure("ps-0", "exception")).includes("chief", 0)

    def test_dead_workers_are_restarted_beside_the_state(self):
        decision = once(failure("worker-1"), failure("chief-0"))
        assert taken(decision) == [*STATE, "worker-1"]

    def test_several_workers(self):
        assert once(failure("worker-1"), failure("worker-3")) == restart("worker-1", "worker-3")

    def test_hang_of_the_chief_restarts_all(self):
        decision = once(failure("chief-0", "hang"))
        assert all(decision.includes(*task) for task in TASKS)

    def test_includes_is_exact(self):
        decision = restart("worker-1", "ps")
        assert decision.includes("worker", 1)
        assert not decision.includes("worker", 11)
        assert not decision.includes("worker", 0)
        assert decision.includes("ps", 7)
        assert not decision.includes("chief", 0)


def hop(task):
    role, _, index = task.partition("-")
    return (
        "\nAdditional GRPC error information from remote target"
        f" /job:{role}/replica:0/task:{index} while calling /tensorflow.WorkerService/RecvTensor:"
    )


def complaint(task, peer, via="", host=None):
    """`task` tells that `peer` was lost, or that `via` has lost it."""
    words = "UnavailableError: failed to connect to all addresses" + hop(peer)
    told = failure(task, "peer", words + (hop(via) if via else ""))
    return told if host is None else dataclasses.replace(told, host=host)


class TestUnreachable:
    """A process tells that it lost another one, which has not failed."""

    def test_who_tells_is_replaced_alone(self):
        assert once(complaint("worker-1", "ps-0")) == restart("worker-1")

    def test_pauses_grow_from_the_second_time_on(self):
        told = incident(complaint("worker-1", "ps-0"))
        pauses = [decide([told] * count, 10, PS).pause_secs for count in range(1, 9)]
        assert pauses == [n * TIMES.pause_secs for n in (0, 1, 2, 4, 8, 16, 16, 16)]

    def test_pauses_of_another_process_are_its_own(self):
        history = [incident(complaint("worker-1", "ps-0"))] * 3
        assert decide([*history, incident(complaint("worker-0", "ps-1"))], 10, PS).pause_secs == 0

    def test_a_checkpoint_ends_the_pauses(self):
        history = [incident(complaint("worker-1", "ps-0"))] * 3
        history.append(incident(complaint("worker-1", "ps-0"), step=1))
        assert decide(history, 10, PS) == restart("worker-1")

    def test_what_has_failed_does_not_wait(self):
        both = incident(complaint("worker-1", "ps-0"), failure("worker-0"))
        assert decide([both] * 3, 10, PS) == restart("worker-0", "worker-1")

    def test_lost_connection_that_names_nobody_does_not_wait(self):
        assert decide([incident(failure("worker-1", "peer"))] * 3, 10, PS) == restart("worker-1")

    def test_told_by_the_chief_is_replaced_along_with_it(self):
        """Else the next chief would meet the same worker again, and again."""
        told = incident(complaint("chief-0", "ps-1", via="worker-1"))
        assert taken(decide([told], BUDGET, PS)) == [*STATE, "worker-1"]
        again = decide([told, told], BUDGET, PS)
        assert taken(again) == [*STATE, "worker-1"]
        assert again.pause_secs == TIMES.pause_secs

    def test_of_a_peer_that_has_failed_is_none(self):
        """Its death explains it all."""
        dead = incident(failure("ps-0"), complaint("chief-0", "ps-0", via="worker-1"))
        decision = decide([dead, dead], BUDGET, PS)
        assert all(decision.includes(*task) for task in TASKS)
        assert decision.pause_secs == 0

    def test_chief_and_server_are_replaced_both(self):
        decision = decide([incident(complaint("chief-0", "ps-0"))] * 2, BUDGET, PS)
        assert taken(decision) == STATE
        assert decision.pause_secs == 0

    @pytest.mark.parametrize("together", [True, False])
    def test_of_several_machines_replaces_the_peer(self, together):
        told = [complaint("worker-0", "ps-0"), complaint("worker-1", "ps-0")]
        history = [incident(*told)] if together else [incident(each) for each in told]
        decision = decide(history, BUDGET, PS)
        assert all(decision.includes(*task) for task in TASKS)
        assert decision.pause_secs == 0

    def test_of_several_processes_of_one_machine_does_not(self):
        """Its network is bad for all of them."""
        told = [complaint(f"worker-{i}", "ps-0", host="one") for i in (0, 1)]
        assert once(*told) == restart("worker-0", "worker-1")

    def test_of_several_machines_about_several_peers_does_not(self):
        told = [complaint("worker-0", "ps-0"), complaint("worker-1", "ps-1")]
        assert once(*told) == restart("worker-0", "worker-1")

    @pytest.mark.parametrize(
        "between",
        [failure("ps-1"), failure("worker-0", "spark"), failure("chief-0", "hang")],
        ids=["restart", "attempt", "hang"],
    )
    def test_of_the_process_before_is_not_held_against_the_next_one(self, between):
        history = [
            incident(complaint("worker-0", "ps-0")),
            incident(between),
            incident(complaint("worker-1", "ps-0")),
        ]
        assert decide(history, BUDGET, PS) == restart("worker-1")

    def test_spends_the_budget_and_then_names_both(self):
        decision = decide([incident(complaint("worker-1", "ps-0"))] * (BUDGET + 1), BUDGET, PS)
        assert isinstance(decision, GiveUp)
        assert decision.cause.task == "worker-1"
        assert decision.cause.message.splitlines()[-1] == (
            "worker-1 could not reach ps-0, which has not failed: see to the network between"
            " their machines"
        )

    def test_in_step_all_are_replaced_as_ever(self):
        decision = decide([incident(complaint("worker-1", "chief-0"))] * 2, BUDGET, MULTI_WORKER)
        assert taken(decision, [("chief", 0), ("worker", 0)]) == ["chief-0", "worker-0"]
        assert decision.pause_secs == 0


def echo(task, message="RuntimeError: Connection reset by peer", kind="exception", time=1.0):
    """As the driver has what a process of a gang told: another one's end may have raised it."""
    return dataclasses.replace(failure(task, kind, message, time), may_echo=True)


class TestGang:
    """Equal processes, whose frameworks tell in words of their own that another one is gone."""

    ALL = (("chief", 0), ("worker", 0), ("worker", 1))

    def is_restart(self, decision):
        return isinstance(decision, Restart) and len(taken(decision, self.ALL)) == 3

    @pytest.mark.parametrize("kind", ["signal", "exit", "hang", "preempted"])
    def test_exceptions_beside_an_end_never_count(self, kind):
        """However often, and though they were told earlier."""
        told = incident(echo("chief-0", time=0.5), failure("worker-1", kind), echo("worker-0"))
        assert told.cause.task == "worker-1"
        assert self.is_restart(decide([told], 10, GANG))
        other = incident(echo("chief-0"), failure("worker-0", kind))
        assert self.is_restart(decide([told, other], 10, GANG))

    def test_exceptions_beside_a_lost_executor_do_not_count(self):
        told = incident(echo("chief-0"), failure("worker-1", "spark"))
        assert told.cause.kind == "spark"
        assert decide([told, told], 10, GANG) == NewAttempt()

    def test_alone_an_exception_is_tried_once_more(self):
        told = incident(echo("worker-0", "ValueError: no such column"))
        assert self.is_restart(decide([told], 10, GANG))
        decision = decide([told, told], 10, GANG)
        assert isinstance(decision, GiveUp)
        assert decision.cause.message == (
            "ValueError: no such column (twice, with no checkpoint in between)"
        )

    def test_it_is_the_same_in_whichever_process_and_whoever_tells_first(self):
        reset = "RuntimeError: Connection reset by peer [10.0.0.1]:"
        first = incident(
            echo("worker-0", "ValueError: x", time=1.0), echo("chief-0", f"{reset}5", time=1.1)
        )
        second = incident(
            echo("chief-0", f"{reset}6", time=1.0), echo("worker-1", "ValueError: x", time=1.1)
        )
        decision = decide([first, second], 10, GANG)
        assert isinstance(decision, GiveUp)
        assert decision.cause.message.startswith("ValueError: x (twice")
        assert decision.cause.task == "worker-1"

    def test_others_at_another_place_are_tried_again(self):
        one, other = (incident(echo("worker-0", words)) for words in ("a", "b"))
        assert self.is_restart(decide([one, other], 10, GANG))
        later = incident(echo("worker-0", "a"), step=5)
        assert self.is_restart(decide([one, later], 10, GANG))

    def test_a_crash_is_taken_for_no_echo_of_its_echoes(self):
        told = incident(echo("chief-0", "SIGSEGV", "crash"), echo("worker-0", time=2.0))
        assert told.cause.kind == "crash"
        assert self.is_restart(decide([told], 10, GANG))
        assert isinstance(decide([told, told], 10, GANG), GiveUp)
        lost = incident(failure("chief-0", "peer"), echo("worker-0"))
        assert self.is_restart(decide([told, lost], 10, GANG))

    def test_what_lost_a_peer_is_no_cause_of_an_exception(self):
        told = incident(failure("chief-0", "peer", time=0.1), echo("worker-0", "ValueError: x"))
        assert told.cause.task == "worker-0"


class TestNewAttempt:
    @pytest.mark.parametrize("kind", ["spark", "start"])
    @pytest.mark.parametrize("task", ["worker-0", "ps-0", "chief-0"])
    def test_lost_executor(self, task, kind):
        assert once(failure(task, kind)) == NewAttempt()

    @pytest.mark.parametrize("kind", ["spark", "start"])
    @pytest.mark.parametrize("cause", ["signal", "hang"])
    def test_whatever_the_cause(self, kind, cause):
        """No process can be given to a task whose supervisor is gone."""
        assert once(failure("chief-0", cause), failure("worker-0", kind)) == NewAttempt()


class TestGiveUp:
    def test_exception_of_the_chief_at_once(self):
        raised = failure("chief-0", "exception", "ValueError: in train()")
        assert once(raised) == GiveUp(raised)
        assert decide([incident(raised)], 10**6, PS) == GiveUp(raised)

    def test_exception_of_the_chief_beside_a_lost_executor(self):
        raised = failure("chief-0", "exception")
        assert once(failure("worker-0", "spark"), raised) == GiveUp(raised)

    def test_exception_of_the_chief_that_follows_from_a_dead_worker_is_none(self):
        decision = once(failure("worker-0", time=1.0), failure("chief-0", "exception", time=2.0))
        assert [t for t in TASKS if not decision.includes(*t)] == [("worker", 1)]

    @pytest.mark.parametrize("kind", DETERMINISTIC)
    @pytest.mark.parametrize("task", ["worker-0", "ps-0"])
    def test_same_failure_twice(self, kind, task):
        one, two = failure(task, kind, time=1.0), failure(task, kind, time=2.0)
        decision = decide([incident(one), incident(two)], BUDGET, PS)
        assert isinstance(decision, GiveUp)
        assert (decision.cause.task, decision.cause.kind) == (task, kind)
        assert decision.cause.message == f"{two.message} (twice, with no checkpoint in between)"

    def test_same_exception_of_two_workers_is_the_same(self):
        """Rows that no worker can take go to the next one."""
        history = [incident(failure(f"worker-{i}", "exception", "KeyError: 'x'")) for i in (0, 1)]
        assert isinstance(decide(history, BUDGET, PS), GiveUp)

    @pytest.mark.parametrize("kind", ["crash", "exit"])
    def test_same_end_of_two_workers_is_the_same(self, kind):
        history = [incident(failure(f"worker-{i}", kind, "its process ...")) for i in (0, 1)]
        assert isinstance(decide(history, BUDGET, PS), GiveUp)

    @pytest.mark.parametrize("topology", [SINGLE, PS, MULTI_WORKER], ids=lambda t: t.name)
    def test_crash_of_the_chief_twice_under_every_strategy(self, topology):
        crash = incident(failure("chief-0", "crash"))
        assert isinstance(decide([crash], BUDGET, topology), Restart)
        assert isinstance(decide([crash, crash], BUDGET, topology), GiveUp)

    def test_same_crash_of_another_role(self):
        """Workers in step run one program, and any of them may be the first to crash."""
        history = [incident(failure(task, "crash", "same")) for task in ("chief-0", "worker-1")]
        assert isinstance(decide(history, BUDGET, MULTI_WORKER), GiveUp)
        assert isinstance(decide(history, BUDGET, PS), Restart)

    def test_hangs_of_two_workers_are_not_the_same(self):
        """Their machines were paused, one after the other."""
        history = [incident(failure(f"worker-{i}", "hang", "silent")) for i in (0, 1)]
        assert decide(history, BUDGET, PS) == Restart(frozenset({"worker-1"}))

    def test_same_failure_with_another_between(self):
        history = [
            incident(failure(task, kind))
            for task, kind in (("worker-0", "exit"), ("worker-1", "signal"), ("worker-0", "exit"))
        ]
        assert isinstance(decide(history, BUDGET, PS), GiveUp)

    @pytest.mark.parametrize("kind", DETERMINISTIC)
    def test_not_with_a_checkpoint_between(self, kind):
        history = [incident(failure("worker-0", kind), step=step) for step in (10, 11)]
        assert not isinstance(decide(history, BUDGET, PS), GiveUp)

    @pytest.mark.parametrize("kind", ACCIDENTAL)
    def test_accidents_are_never_the_same(self, kind):
        history = [incident(failure("worker-0", kind))] * BUDGET
        assert not isinstance(decide(history, BUDGET, PS), GiveUp)

    @pytest.mark.parametrize(
        "other",
        [
            failure("worker-0", "exception", "KeyError: 'y'"),
            failure("ps-0", "exception", "KeyError: 'x'"),
            failure("worker-0", "exit", "KeyError: 'x'"),
        ],
        ids=["words", "role", "kind"],
    )
    def test_not_for_a_failure_that_differs(self, other):
        first = incident(failure("worker-0", "exception", "KeyError: 'x'"))
        assert isinstance(decide([first, incident(other)], BUDGET, PS), Restart)

    def test_only_causes_are_compared(self):
        """A worker that loses its peer each time is no sign of a deterministic failure."""
        lost = failure("worker-0", "exit", "the same", time=9.0)
        history = [
            incident(failure("ps-0", "signal", time=1.0), lost),
            incident(failure("ps-1", "signal", time=1.0), lost),
        ]
        assert isinstance(decide(history, BUDGET, PS), Restart)


class TestBudget:
    def crashes(self, count, step=0):
        return [
            incident(failure(f"worker-{i}", "signal", f"crash {i}\nits log", time=i), step=step)
            for i in range(count)
        ]

    def test_that_many_are_survived(self):
        for count in range(1, BUDGET + 1):
            assert isinstance(decide(self.crashes(count), BUDGET, PS), Restart)

    def test_one_more_ends_the_run_with_the_list_of_all_first_first(self):
        decision = decide(self.crashes(BUDGET + 1), BUDGET, PS)
        assert isinstance(decision, GiveUp)
        cause = decision.cause
        assert (cause.task, cause.host, cause.time) == ("worker-0", "host-of-worker-0", 0)
        assert cause.message.startswith("crash 0")
        assert f"--max-restarts {BUDGET}" in cause.message
        assert f"first of {BUDGET + 1} failures" in cause.message
        assert cause.message.splitlines()[-(BUDGET + 1) :] == [
            f"  {i + 1}. worker-{i} on host-of-worker-{i}: crash {i}" for i in range(BUDGET + 1)
        ]

    def test_none_ends_the_run_at_the_first_failure_as_it_is(self):
        (crash,) = self.crashes(1)
        assert decide([crash], 0, PS) == GiveUp(crash.cause)

    def test_is_refilled_by_a_checkpoint(self):
        history = self.crashes(BUDGET)
        history += self.crashes(BUDGET, step=1)
        assert isinstance(decide(history, BUDGET, PS), Restart)
        history += self.crashes(1, step=1)
        decision = decide(history, BUDGET, PS)
        assert isinstance(decision, GiveUp)
        assert f"first of {BUDGET + 1} failures" in decision.cause.message

    def test_counts_new_attempts(self):
        lost = incident(failure("worker-0", "spark"))
        assert decide([lost] * BUDGET, BUDGET, PS) == NewAttempt()
        assert isinstance(decide([lost] * (BUDGET + 1), BUDGET, PS), GiveUp)

    def test_failures_at_one_time_are_one_incident(self):
        many = [failure(f"worker-{i}") for i in range(BUDGET + 1)]
        assert isinstance(decide([incident(*many)], 1, PS), Restart)

    def test_failure_without_words_can_be_listed(self):
        """An exception of a supervisor may have no text: see runtime.task."""
        history = [incident(Failure("worker", 0, "h", "start", "")), *self.crashes(1)]
        assert "1. worker-0 on h" in decide(history, 1, PS).cause.message


class TestWorkersInStep:
    """Under multi-worker every worker runs train(): the chief is one of them."""

    @pytest.mark.parametrize("task", ["chief-0", "worker-0", "worker-2"])
    @pytest.mark.parametrize("kind", ["signal", "crash", "exit", "peer", "preempted", "hang"])
    def test_any_death_restarts_all_of_them(self, task, kind):
        decision = decide([incident(failure(task, kind))], BUDGET, MULTI_WORKER)
        for other in [("chief", 0), *(("worker", i) for i in range(3))]:
            assert decision.includes(*other)

    @pytest.mark.parametrize("task", ["chief-0", "worker-1"])
    def test_exception_gives_up_at_once(self, task):
        raised = failure(task, "exception", "ValueError: in train()")
        assert decide([incident(raised)], 10**6, MULTI_WORKER) == GiveUp(raised)

    def test_exception_of_a_worker_that_serves_does_not(self):
        raised = failure("worker-1", "exception")
        assert decide([incident(raised)], BUDGET, PS) == restart("worker-1")

    @pytest.mark.parametrize("kind", ["spark", "start"])
    def test_lost_executor_is_a_new_attempt(self, kind):
        lost = incident(failure("worker-0", kind), failure("chief-0", "peer"))
        assert decide([lost], BUDGET, MULTI_WORKER) == NewAttempt()

    def test_single_restarts_its_chief(self):
        decision = decide([incident(failure("chief-0"))], BUDGET, SINGLE)
        assert decision == restart("chief-0")


failures = st.builds(
    Failure,
    role=st.sampled_from(["chief", "ps", "worker"]),
    index=st.integers(0, 2),
    host=st.just("h"),
    kind=st.sampled_from(DETERMINISTIC + ACCIDENTAL),
    message=st.sampled_from(["one", "two\nlines", *(f"lost{hop(t)}" for t in ("ps-0", "chief-0"))]),
    time=st.floats(0, 100),
)


@st.composite
def histories(draw):
    """Incidents at steps that never fall, as the driver notes them."""
    steps = sorted(draw(st.lists(st.integers(0, 3), min_size=1, max_size=8)))
    some = st.lists(failures, min_size=1, max_size=3)
    return [Incident(tuple(draw(some)), step) for step in steps]


class TestProperties:
    @given(histories(), st.integers(0, 5))
    def test_same_answer_twice_and_nothing_is_changed(self, history, budget):
        before = copy.deepcopy(history)
        assert decide(history, budget, PS) == decide(history, budget, PS)
        assert history == before

    @given(histories(), st.integers(0, 5))
    def test_spent_budget_ends_the_run(self, history, budget):
        here = [i for i in history if i.step == history[-1].step]
        if len(here) > budget:
            assert isinstance(decide(history, budget, PS), GiveUp)

    @given(histories(), st.integers(0, 5))
    def test_restart_takes_all_that_failed(self, history, budget):
        decision = decide(history, budget, PS)
        if isinstance(decision, Restart):
            for failed in history[-1].failures:
                assert decision.includes(failed.role, failed.index)
                assert failed.kind not in ("spark", "start")

    @given(histories(), st.integers(0, 5))
    def test_chief_and_ps_go_together(self, history, budget):
        decision = decide(history, budget, PS)
        if isinstance(decision, Restart):
            taken = {decision.includes(*task) for task in TASKS if task[0] != "worker"}
            assert len(taken) == 1

    @given(histories(), st.integers(0, 5))
    def test_what_is_told_happened_since_the_last_checkpoint(self, history, budget):
        decision = decide(history, budget, PS)
        if isinstance(decision, GiveUp):
            causes = [i.cause for i in history if i.step == history[-1].step]
            assert (decision.cause.task, decision.cause.kind) in {(c.task, c.kind) for c in causes}

    @given(histories(), histories(), st.integers(0, 5))
    def test_what_was_before_the_last_checkpoint_counts_for_nothing(self, old, new, budget):
        later = [Incident(i.failures, i.step + 10) for i in new]
        assert decide([*old, *later], budget, PS) == decide(later, budget, PS)

    @given(histories(), st.integers(0, 5))
    def test_more_budget_never_gives_up_earlier(self, history, budget):
        if not isinstance(decide(history, budget, PS), GiveUp):
            assert decide(history, budget + 1, PS) == decide(history, budget, PS)
