"""A network with a run in it: a machine for each part, and a test that cuts them off."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import our_processes, poll
from network import Machine, MachineCluster, Network
from runs import Run

_ZOOKEEPER = """
import sys
from tfos.runtime.zookeeper import EmbeddedZooKeeper
server = EmbeddedZooKeeper(sys.argv[1])
server.wait()
print(server.hosts, flush=True)
sys.stdin.read()
server.stop()
"""
_ROLE = "tfos.runtime.main "


class World:
    """A network of a Spark master, workers of one slot each, a ZooKeeper server and a driver."""

    def __init__(self, home: Path, workers: str = "abc") -> None:
        self.home = home
        self.network = Network()
        self.keeper = self.network.add("zookeeper")
        self.driver = self.network.add("driver")
        self.cluster = MachineCluster(home, self.network)
        for name in workers:
            self.cluster.add_worker(name, 1)
        self._server = subprocess.Popen(
            self.keeper.command(sys.executable, "-c", _ZOOKEEPER, self.keeper.address),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._server.stdout is not None
        self.zookeeper = self._server.stdout.readline().strip()
        self.runs: list[Run] = []

    def start(self, run_id: str, *options: object) -> Run:
        """A run of counting.py, whose rows are a multiple of what up to three in step take."""
        run = Run(
            self.home, run_id, "--master", self.cluster.url,
            "--zookeeper", f"{self.zookeeper}/{run_id}",
            "--conf", f"spark.driver.host={self.driver.address}", *options,
            args=("--epochs", 10_000, "--rows", 4200), where=self.driver.command,
        )  # fmt: skip
        self.runs.append(run)
        return run

    def machine_of(self, run: Run, task: str) -> Machine:
        """The machine that a task's process runs on."""
        return self.cluster.machines[self.cluster.worker_of(run.pid(task))]

    def during(self, run: Run, secs: float, cut: Callable[[], object]) -> int:
        """Cuts, waits, mends, and waits until all is well; returns how often a role was lost."""
        before = run.status
        cut()
        self.last(secs)
        self.network.mend()
        run.wait_until_well()
        now = run.status
        # of earlier attempts and lives nothing is left
        poll(lambda: len(self._roles()) == len(now.roles), 60, "each role has one process")
        new = now.failures[len(before.failures) :]
        print(
            f"attempt {before.attempt} -> {now.attempt}", [f"{f.task}: {f.headline}" for f in new]
        )
        return len(new)

    def last(self, secs: float) -> None:
        """Waits: a cut is to last."""
        until = time.monotonic() + secs
        poll(lambda: time.monotonic() > until, secs + 5, "the cut has lasted")

    def roles_on(self, machine: Machine) -> list[int]:
        """The processes of roles on a machine, of whichever attempt."""
        return [pid for pid in self._roles() if machine.has(pid)]

    def _roles(self) -> list[int]:
        return [pid for pid, line in self._inside() if _ROLE in line]

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # whatever fails: the last line first
            closing.callback(self.network.close)
            closing.callback(poll, lambda: not self._inside(), 30, "nothing runs on the machines")
            closing.callback(self.cluster.close)
            closing.callback(self._server.communicate)
            for run in self.runs:
                closing.callback(run.close)
            closing.callback(self.network.mend)

    def _inside(self) -> list[tuple[int, str]]:
        """The processes that run on the machines: pid, and command line."""
        machines = self.network.machines
        return [
            (pid, " ".join(command.split()))
            for pid, command in our_processes().items()
            if any(machine.has(pid) for machine in machines)
        ]
