"""A run on machines whose network breaks at random, and whose processes die in between.

    bin/test --chaos [--chaos-seed N] [--chaos-cuts N] tests/chaos/test_cuts.py

The app counts what each row was trained on; see tests/apps/counting.py. The same seed makes the
same schedule, though not to the millisecond.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from conftest import ROOT
from network import require
from network_world import World
from runs import Run

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

STRATEGIES = {
    "ps": (("--num-ps", 1, "--num-workers", 1), ("chief-0", "ps-0", "worker-0")),
    "multi-worker": (("--num-workers", 3), ("chief-0", "worker-0", "worker-1")),
}
# how often each kind comes
WEIGHTS = {"both ways": 4, "one way": 3, "from all": 2, "SIGKILL": 3}
# below and above what sessions and silent connections last
SECS = (5.0, 15.0, 40.0)


@dataclass(frozen=True)
class Cut:
    """kind: a key of WEIGHTS. task: on whose machine. other: zookeeper, driver, or a task."""

    kind: str
    task: str
    other: str
    secs: float

    def __str__(self) -> str:
        if self.kind == "SIGKILL":
            return f"SIGKILL {self.task}"
        where = "" if self.kind == "from all" else f" {self.other}"
        return f"{self.task} cut {self.kind}{where} for {self.secs:g} s"


def schedule(seed: int, count: int) -> tuple[str, list[Cut]]:
    """The strategy, and what happens one after the other."""
    rng = random.Random(seed)
    strategy = rng.choice(list(STRATEGIES))
    tasks = STRATEGIES[strategy][1]
    cuts = []
    for _ in range(count):
        (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        task = rng.choice(tasks)
        others = ["zookeeper", "driver", *(other for other in tasks if other != task)]
        cuts.append(Cut(kind, task, rng.choice(others), rng.choice(SECS)))
    return strategy, cuts


def harm(world: World, run: Run, cut: Cut) -> None:
    if cut.kind == "SIGKILL":
        os.kill(run.pid(cut.task), signal.SIGKILL)
        return
    parts = {"zookeeper": world.keeper, "driver": world.driver}
    here = world.machine_of(run, cut.task)
    there = parts.get(cut.other) or world.machine_of(run, cut.other)
    match cut.kind:
        case "both ways":
            world.network.cut(here, there)
        case "one way":
            world.network.lose(here, there)
        case "from all":
            world.network.cut(here)


@pytest.mark.chaos
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_many_cuts(
    tmp_path, seed: int, pytestconfig, no_leaks, record_property: Callable[[str, object], None]
):
    require()
    strategy, cuts = schedule(seed, pytestconfig.getoption("--chaos-cuts"))
    print(f"--chaos-seed {seed}, {strategy}: {'; '.join(map(str, cuts))}")
    world = World(tmp_path)
    try:
        run = world.start(
            "cuts", "--strategy", strategy, *STRATEGIES[strategy][0], "--hang-secs", 30
        )
        run.wait_for_training()
        noticed = 0
        for cut in cuts:
            secs = 0 if cut.kind == "SIGKILL" else cut.secs
            noticed += world.during(run, secs, lambda cut=cut: harm(world, run, cut))
            print(f"{cut}: all is well", flush=True)
        result = run.finish(240)
    finally:
        world.close()
    record_property(
        "tell",
        f"{strategy}: {'; '.join(map(str, cuts))}: {noticed} failures, {result['attempts']}"
        f" attempts, restarts {result['restarts']},"
        f" rows repeated {sum(result['feeds']['train']['rows_repeated'])}",
    )
    check_counts(result, worker_deaths=len(result["failures"]) if strategy == "ps" else 0)
