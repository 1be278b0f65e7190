"""Networks break, machines do not: cuts between machines, for a while or for ever, one way or both.

Whatever is cut, one chief writes, the accounting is exact within what a dead worker may cost, the
run ends well or fails with the cut as its cause, and a machine that comes back finds nothing of its
old attempt running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
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
