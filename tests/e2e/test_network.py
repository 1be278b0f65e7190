"""Networks break, machines do not: cuts between machines, for a while or for ever, one way or both.

Whatever is cut, one chief writes, the accounting is exact within what a dead worker may cost, the
run ends well or fails with the cut as its cause, and a machine that comes back finds nothing of its
old attempt running.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import our_processes, poll, supervisor_of
from network import Machine, MachineCluster, Network, require
from runs import Run
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(600)]
TASKS = ("chief-0", "ps-0", "worker-0")

_ZOOKEEPER = """
import sys
from tfos.runtime.zookeeper import EmbeddedZooKeeper
server = EmbeddedZooKeeper(sys.argv[1])
server.wait()
print(server.hosts, flush=True)
sys.stdin.read()
server.stop()
"""


class World:
    """A network of a Spark master, three workers, a ZooKeeper server and a driver."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.network = Network()
        self.keeper = self.network.add("zookeeper")
        self.driver = self.network.add("driver")
        self.cluster = MachineCluster(home, self.network)
        for name in "abc":  # one for each role
            self.cluster.add_worker(name, 1)
        self._server = subprocess.Popen(
            self.keeper.command(sys.executable, "-c", _ZOOKEEPER, self.keeper.address),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._server.stdout is not None
        self.zookeeper = self._server.stdout.readline().strip()
        self.runs: list[Run] = []

    def start(self, run_id: str, *options: object) -> Run:
        run = Run(
            self.home, run_id, "--master", self.cluster.url,
            "--zookeeper", f"{self.zookeeper}/{run_id}",
            "--conf", f"spark.driver.host={self.driver.address}", *options,
            where=self.driver.command,
        )  # fmt: skip
        self.runs.append(run)
        return run

    def machine_of(self, run: Run, task: str) -> Machine:
        """The machine that a task's process runs on."""
        parents = supervisor_of(run.pid(task)).pid
        return self.cluster.machines[self.cluster.worker_of(run.pid(task))] if parents else None

    def close(self) -> None:
        self.network.mend()
        for run in self.runs:
            run.close()
        self._server.communicate()
        self.cluster.close()
        poll(lambda: not self._inside(), 30, "nothing runs on the machines")
        self.network.close()

    def _inside(self) -> list[int]:
        """The processes that run on the machines, not in this network namespace."""
        own = Path("/proc/self/ns/net").readlink()
        found = []
        for pid in our_processes():
            try:
                if Path(f"/proc/{pid}/ns/net").readlink() != own:
                    found.append(pid)
            except OSError:  # it has just ended
                pass
        return found


@pytest.fixture
def world(tmp_path: Path, no_leaks: None) -> Iterator[World]:
    require()
    world = World(tmp_path)
    yield world
    world.close()


def after(secs: float) -> None:
    """Waits: the cut is to last."""
    until = time.monotonic() + secs
    poll(lambda: time.monotonic() > until, secs + 5, "the cut has lasted")


def processes(run_id: str) -> int:
    """How many processes of roles of the run there are, of whichever attempt."""
    lines = (" ".join(line.split()) for line in our_processes().values())
    return sum(f"tfos.runtime.main {task} {run_id} " in line for line in lines for task in TASKS)


def test_cuts_that_end(world):
    """Each for longer than sessions last, but for one."""
    run = world.start("cut", "--num-ps", 1, "--num-workers", 1, "--hang-secs", 60)
    run.wait_for_training()
    deaths = 0

    def during(secs: float, cut: Callable[[], None]) -> int:
        """Cuts, waits, mends, and waits until all is well; returns how often a worker was lost."""
        before = run.status
        cut()
        after(secs)
        world.network.mend()
        run.wait_until_well()
        poll(lambda: processes("cut") == len(TASKS), 60, "nothing of an old attempt is left")
        now = run.status
        print(f"attempt {before.attempt} -> {now.attempt}", now.failures[len(before.failures) :])
        return len(now.failures) - len(before.failures)

    at = world.machine_of
    deaths += during(20, lambda: world.network.cut(at(run, "worker-0"), at(run, "ps-0")))
    assert during(3, lambda: world.network.cut(at(run, "worker-0"), world.keeper)) == 0
    deaths += during(20, lambda: world.network.cut(at(run, "worker-0"), world.keeper))
    deaths += during(20, lambda: world.network.lose(at(run, "chief-0"), world.keeper))
    deaths += during(20, lambda: world.network.cut(at(run, "ps-0"), world.driver))
    deaths += during(20, lambda: world.network.cut(at(run, "chief-0")))
    result = run.finish(240)
    check_counts(result, worker_deaths=deaths)
