"""Staleness, by simulation: the bound is never exceeded, and nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.kv.clocks import Clocks

pytestmark = pytest.mark.timeout(60)
STALENESS = st.none() | st.integers(0, 3)
# what happens next: to which worker
EVENTS = st.lists(
    st.tuples(st.sampled_from(["run", "run", "run", "join", "leave"]), st.integers(0, 4)),
    max_size=60,
)


class World:
    """Workers that begin a step when they may, and finish it when they are run again."""

    def __init__(self, staleness: int | None) -> None:
        self.clocks = Clocks(staleness)
        self.running: set[str] = set()
        self.seen = 0  # the slowest so far

    def happen(self, event: str, worker: str) -> None:
        is_member = worker in self.clocks.clocks
        if event == "join":
            self.clocks.join(worker)
        elif event == "leave":
            self.clocks.leave(worker)
            self.running.discard(worker)
        elif is_member and worker in self.running:
            self.running.remove(worker)
            self.clocks.tick(worker)
        elif is_member and self.clocks.may_begin(worker):
            self.running.add(worker)
        self.check()

    def check(self) -> None:
        clocks = self.clocks.clocks
        if not clocks:
            return
        staleness, slowest = self.clocks.staleness, min(clocks.values())
        assert slowest >= self.seen  # nobody joins behind
        self.seen = slowest
        for worker in self.running:
            assert staleness is None or clocks[worker] - slowest <= staleness
        for worker in clocks:  # steps that are finished, one more than may be begun ahead
            assert staleness is None or clocks[worker] - slowest <= staleness + 1
        assert any(self.clocks.may_begin(worker) for worker in clocks)


@settings(max_examples=2000, deadline=None)
@given(STALENESS, EVENTS)
def test_any_schedule(staleness, events):
    world = World(staleness)
    for event, number in events:
        world.happen(event, f"worker-{number}")
    # whoever is left gets on, in the worst of orders: the fastest first
    members = world.clocks.clocks
    goal = max(members.values(), default=0) + 5
    for _ in range(2 * (goal + 1) * (len(members) + 1)):
        for worker, _ in sorted(world.clocks.clocks.items(), key=lambda item: -item[1]):
            world.happen("run", worker)
    assert all(clock >= goal for clock in world.clocks.clocks.values())


def test_bulk_synchronous():
    clocks = Clocks(0)
    clocks.join("a")
    clocks.join("b")
    clocks.tick("a")
    assert not clocks.may_begin("a") and clocks.may_begin("b")
    clocks.tick("b")
    assert clocks.may_begin("a") and clocks.may_begin("b")


def test_one_that_leaves_is_waited_for_no_more():
    clocks = Clocks(1)
    for worker in ("a", "b"):
        clocks.join(worker)
    clocks.tick("a")
    clocks.tick("a")
    assert not clocks.may_begin("a")
    clocks.leave("b")
    assert clocks.may_begin("a")
    clocks.leave("a")
    clocks.join("c")
    assert clocks.clocks == {"c": 2}


def test_bad_staleness():
    with pytest.raises(ValueError, match="staleness is -1"):
        Clocks(-1)
