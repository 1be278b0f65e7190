"""Networks break, machines do not: cuts between machines, for a while or for ever, one way or both.

Whatever is cut, one chief writes, the accounting is exact within what a dead worker may cost, the
run ends well or fails with the cut as its cause, and a machine that comes back finds nothing of its
old attempt running.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import poll
from network import require
from network_world import World
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(600)]


@pytest.fixture
def make_world(tmp_path: Path, no_leaks: None) -> Iterator[Callable[..., World]]:
    require()
    made: list[World] = []

    def make(workers: str = "abc") -> World:  # one for each role
        made.append(World(tmp_path, workers))
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_cuts_that_end(make_world):
    """Each for longer than sessions last, but for one."""
    world = make_world()
    run = world.start("cut", "--num-ps", 1, "--num-workers", 1, "--hang-secs", 60)
    run.wait_for_training()
    at, cut, lose = world.machine_of, world.network.cut, world.network.lose

    deaths = world.during(run, 20, lambda: cut(at(run, "worker-0"), at(run, "ps-0")))
    assert world.during(run, 3, lambda: cut(at(run, "worker-0"), world.keeper)) == 0
    deaths += world.during(run, 20, lambda: cut(at(run, "worker-0"), world.keeper))
    deaths += world.during(run, 20, lambda: lose(at(run, "chief-0"), world.keeper))
    deaths += world.during(run, 20, lambda: cut(at(run, "ps-0"), world.driver))
    deaths += world.during(run, 20, lambda: cut(at(run, "chief-0")))
    check_counts(run.finish(240), worker_deaths=deaths)


@pytest.mark.full
def test_cuts_of_processes_in_step(make_world):
    world = make_world()
    run = world.start("step", "--strategy", "multi-worker", "--num-workers", 3, "--hang-secs", 20)
    run.wait_for_training()
    at, cut, lose = world.machine_of, world.network.cut, world.network.lose

    # two that do not speak to the chief, and the chief and one; all wait for them
    world.during(run, 40, lambda: cut(at(run, "worker-0"), at(run, "worker-1")))
    world.during(run, 40, lambda: lose(at(run, "worker-1"), at(run, "chief-0")))
    assert world.during(run, 3, lambda: cut(at(run, "chief-0"), world.keeper)) == 0
    world.during(run, 20, lambda: cut(at(run, "worker-1"), world.keeper))
    world.during(run, 20, lambda: cut(at(run, "chief-0")))
    check_counts(run.finish(240), worker_deaths=0)


@pytest.mark.full
@pytest.mark.parametrize("task", ["chief-0", "ps-0", "worker-0"])
def test_machine_that_is_cut_off_for_ever(make_world, task, monkeypatch):
    """The run goes on elsewhere; what is left of it there ends by itself."""
    shorter = {**json.loads(os.environ["TFOS_TIMES"]), "outage_secs": 40}
    monkeypatch.setenv("TFOS_TIMES", json.dumps(shorter))
    world = make_world("abcd")
    run = world.start("gone", "--num-ps", 1, "--num-workers", 1)
    run.wait_for_training()
    lost = world.machine_of(run, task)
    before = len(run.status.failures)
    world.network.cut(lost)
    poll(lambda: len(run.status.failures) > before, 120, "it is noticed")
    poll(lambda: not world.roles_on(lost), 120, "the processes on the lost machine end")
    run.wait_until_well()
    assert world.machine_of(run, task) != lost
    result = run.finish(240)
    assert result["status"] == "succeeded"
    check_counts(result, worker_deaths=len(result["failures"]))
