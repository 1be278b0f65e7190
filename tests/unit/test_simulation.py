"""Any schedule of harms: what lifecycles, detector and policy decide together, in no time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import STEPS, World

from tfos.spec.roles import Task

STRATEGIES = ["single", "ps", "multi-worker", "gang"]
# with no more harm a run has ended by then: an attempt takes 60 ticks, a missing member 12 or 20
MOST_TICKS = 1500

HARMS = {
    "kill": lambda world, number: world.kill_process(number),
    "crash": lambda world, number: world.kill_process(number, -11),
    "exit": lambda world, number: world.kill_process(number, 7),
    "preempt": lambda world, number: world.preempt(number),
    "supervisor": lambda world, number: world.kill_supervisor(number),
    "cut off": lambda world, number: world.kill_supervisor(number, is_cut_off=True),
    "unreachable": lambda world, number: world.lose_network(number),
    "told": lambda world, number: world.lose_network(number, is_told=True),
    "session": lambda world, number: world.lose_session(number),
}
NETWORK = ("unreachable", "told")
schedules = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(sorted(HARMS)), st.integers(0, 3)), max_size=8
)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


def run(world, harms=()):
    """Ticks through the harms, each (ticks before it, what, to whom), and then to the end."""
    for ticks, what, number in harms:
        for _ in range(ticks):
            world.tick()
        if world.ended is None:
            HARMS[what](world, number)
    for _ in range(MOST_TICKS):
        if world.ended is not None:
            break
        world.tick()
    for _ in range(20):  # nobody goes on after the end
        world.tick()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_harm_one_attempt_is_enough(strategy):
    with World(strategy) as world:
        run(world)
    assert world.has_succeeded
    assert (world.attempts, world.history, world.violations) == (1, [], [])
    assert world.lake.step == STEPS


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(harms=schedules, delay=st.integers(0, 3))
@many
def test_a_run_survives_or_gives_up_for_a_reason(strategy, harms, delay):
    with World(strategy, budget=4, delay=delay) as world:
        run(world, harms)
    assert not world.violations
    assert world.has_succeeded or world.has_given_up, "it neither goes on nor ends"
    processes = [s.process for s in world.supervisors if s.process not in (None, *world.cut_off)]
    assert not any(process.runs for process in processes)
    if world.has_succeeded:
        assert world.lake.step == STEPS
    if world.has_given_up:
        # more incidents than the budget with no checkpoint between, or the same one twice
        step = world.history[-1].step
        stalled = [incident for incident in world.history if incident.step == step]
        assert len(stalled) > 4 or len({i.cause.kind for i in stalled}) < len(stalled)
    # what follows from a harm is dealt with along with it, but for a supervisor's: a peer may tell
    # of it before Spark does; and a network that is bad for 20 s is met again after each restart
    assert len(world.history) <= sum(6 if what in NETWORK else 2 for _, what, _ in harms)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(
    harms=st.lists(st.tuples(st.integers(5, 40), st.just("kill"), st.integers(0, 3)), max_size=4)
)
@many
def test_kills_within_the_budget_never_end_a_run(strategy, harms):
    with World(strategy, budget=4) as world:
        run(world, harms)
    assert world.has_succeeded, world.ended
    assert not world.violations


cut_offs = {
    "worker": st.integers(0, 1),
    "ticks": st.integers(0, 30),
    "secs": st.integers(1, 60),
    "delay": st.integers(0, 3),
}


@given(**cut_offs)
@many
def test_a_worker_that_reaches_no_server_is_replaced_alone(worker, ticks, secs, delay):
    with World("ps", budget=6, delay=delay) as world:
        for _ in range(ticks):
            world.tick()
        world.lose_network(worker, secs)
        run(world)
    assert world.has_succeeded, world.ended
    assert (world.attempts, world.violations) == (1, [])
    lives = world.attempt.lives
    assert lives.pop(Task("worker", worker)) == 1 + len(world.history)
    assert set(lives.values()) == {1}, "a server, the chief or another worker was restarted"


@given(**cut_offs)
@many
def test_a_worker_of_which_the_chief_tells_is_replaced_with_it(worker, ticks, secs, delay):
    """The chief has failed; without the pauses a minute would take some fifteen restarts."""
    with World("ps", budget=6, delay=delay) as world:
        for _ in range(ticks):
            world.tick()
        world.lose_network(worker, secs, is_told=True)
        run(world)
    assert world.has_succeeded, world.ended
    assert (world.attempts, world.violations) == (1, [])
    lives = world.attempt.lives
    assert lives.pop(Task("worker", 1 - worker)) == 1
    assert set(lives.values()) == {1 + len(world.history)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(harms=schedules, delay=st.integers(0, 3))
@many
def test_an_exception_in_train_ends_the_run_for_good(strategy, harms, delay):
    with World(strategy, budget=10**6, breaks=True, delay=delay) as world:
        run(world, harms)
    assert not world.violations
    assert world.has_given_up
