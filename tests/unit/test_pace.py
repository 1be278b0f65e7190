"""How many steps a unit has, with workers whose steps take a known time."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.training.pace import Pace


def simulate(pace, steps, workers, step_secs, trace_secs=0.0, own_secs=0.0):
    """The sizes of an epoch's units, and when each worker was done, with two under way each.

    own_secs: what the chief needs for each; the workers go on meanwhile.
    """
    free = [trace_secs] * workers
    sizes: list[int] = []
    under_way: list[tuple[float, int]] = []
    left, now = steps, 0.0
    pace.begin()

    def finish() -> None:
        nonlocal now
        at, done = heapq.heappop(under_way)
        now = max(now, at) + own_secs
        pace.done(done, now, own_secs)

    while left:
        size = pace.next(left)
        assert 1 <= size <= left
        left -= size
        sizes.append(size)
        begin = max(heapq.heappop(free), now)
        heapq.heappush(free, begin + size * step_secs)
        heapq.heappush(under_way, (begin + size * step_secs, size))
        if len(under_way) >= 2 * workers:
            finish()
    while under_way:
        finish()
    assert sum(sizes) == steps
    return sizes, sorted(free)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("step_secs", [1e-4, 1e-3, 0.02, 2.0])
def test_units_take_a_quarter_of_a_second(workers, step_secs):
    pace = Pace(workers, True)
    sizes, _ = simulate(pace, int(workers * 300 / step_secs**0.5), workers, step_secs, 5.0)
    of_steps = sorted(size for size in sizes for _ in range(size))
    assert of_steps[len(of_steps) // 2] == pytest.approx(max(1, 0.25 / step_secs), rel=0.5, abs=1)


def test_units_are_longer_where_the_chief_has_many_workers():
    pace = Pace(1000, True)
    sizes, _ = simulate(pace, 20_000_000, 1000, 0.01)
    of_steps = sorted(size for size in sizes for _ in range(size))
    assert of_steps[len(of_steps) // 2] == pytest.approx(10 / 0.01, rel=0.5)


@pytest.mark.parametrize(("workers", "own_secs"), [(1, 0.3), (8, 0.04), (32, 0.015)])
def test_a_slow_chief_gets_longer_units(workers, own_secs):
    """With shorter ones it would have the more to do, the slower it is."""
    sizes, _ = simulate(Pace(workers, True), 300_000 * workers, workers, 0.001, own_secs=own_secs)
    of_steps = sorted(size for size in sizes for _ in range(size))
    wanted = 2 * (own_secs + 0.005) * workers / 0.001
    assert of_steps[len(of_steps) // 2] == pytest.approx(wanted, rel=0.5)


def test_callbacks_of_a_single_process_do_not_count_as_steps():
    pace, now = Pace(1, False), 0.0
    for _ in range(200):
        size = pace.next(10**9)
        now += size * 0.001 + 0.2
        pace.done(size, now, 0.2)
    assert size == pytest.approx(2 * 0.205 / 0.001, rel=0.1)


def test_workers_are_done_together():
    pace = Pace(8, True)
    simulate(pace, 100_000, 8, 0.001)
    sizes, ends = simulate(pace, 100_000, 8, 0.001)
    assert ends[-1] - ends[0] <= 0.25 / 8 + 0.01
    assert sizes[-1] < max(sizes) / 4


def test_first_units_are_short():
    """Nobody knows yet how long a step takes."""
    assert Pace(1, True).next(10**6) <= 4


def test_first_unit_of_each_worker_does_not_count():
    """Their functions are traced, and the tables come into memory."""
    slow, fast = Pace(2, True), Pace(2, True)
    for pace, begin in ((slow, 60.0), (fast, 0.0)):
        now = begin
        for _ in range(6):
            now += 0.125
            pace.done(4, now, 0.0)
    assert slow.next(1000) == fast.next(1000)


def test_a_pause_does_not_count():
    pace = Pace(1, True)
    for now in (1.0, 1.1, 1.2, 1.3):
        pace.done(4, now, 0.0)
    before = pace.next(10**6)
    pace.begin()
    for now in (100.0, 100.1, 100.2, 100.3):
        pace.done(4, now, 0.0)
    assert pace.next(10**6) == pytest.approx(before, abs=2)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 200), st.integers(1, 10_000), st.floats(1e-5, 10), st.integers(1, 50))
def test_every_step_is_in_one_unit(workers, steps, step_secs, fixed):
    simulate(Pace(workers, True), steps, workers, step_secs)
    sizes, _ = simulate(Pace(workers, True, fixed), steps, workers, step_secs)
    assert set(sizes[:-1]) <= {fixed}
