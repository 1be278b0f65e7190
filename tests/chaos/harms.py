"""What may happen to a run: a random schedule of harms, as data, and how each is done."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
from conftest import (
    ROOT,
    SparkCluster,
    fork_servers,
    our_processes,
    poll,
    role_pids,
    supervisor_of,
)
from runs import Run

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import corrupt

TASKS = ("chief-0", "ps-0", "ps-1", "worker-0", "worker-1")
# how often each kind comes
WEIGHTS = {
    "SIGKILL": 30,
    "SIGTERM": 18,
    "SIGKILL with fork server": 8,
    "SIGSTOP": 3,
    "supervisor": 10,
    "executor": 7,
    "Spark worker": 4,
    "newest checkpoint": 8,
}
EARLY = 0.25
PAUSE_SECS = 3.0
CORES = 3


@dataclass(frozen=True)
class Harm:
    """kind: a key of WEIGHTS. task: whose process, or supervisor and so on.

    early: strikes while the run may still recover from the harm before.
    """

    kind: str
    task: str
    early: bool
    pause_secs: float

    def __str__(self) -> str:
        return f"{self.kind} {self.task}{' (early)' if self.early else ''}"


def schedule(seed: int, count: int, without: Sequence[str] = ()) -> list[Harm]:
    """`count` harms, the same for the same arguments; a Spark worker goes at most once."""
    rng = random.Random(seed)
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind not in without}
    harms: list[Harm] = []
    for _ in range(count):
        (kind,) = rng.choices(list(weights), list(weights.values()))
        task = "chief-0" if kind == "newest checkpoint" else rng.choice(TASKS)
        # a second stop before a newer checkpoint looks like a deadlock, which ends the run
        early = rng.random() < EARLY and bool(harms) and kind != "SIGSTOP"
        harms.append(Harm(kind, task, early, rng.uniform(0, PAUSE_SECS)))
        if kind == "Spark worker":
            del weights[kind]
    return harms


class Chaos:
    """Harms a run. killed: the tasks whose process was ended, one entry for each."""

    def __init__(self, run: Run, cluster: SparkCluster) -> None:
        self._run = run
        self._cluster = cluster
        self._struck: set[int] = set()
        self._begun = time.monotonic()
        self.killed: list[str] = []

    def tell(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._begun:5.1f} s  {text}")

    def wreak(self, harms: Sequence[Harm]) -> None:
        """Does one harm after the other, and waits until the run trains after the last."""
        for number, harm in enumerate(harms, 1):
            if not harm.early:
                self._run.wait_until_well(self._struck)
                self.tell("all is well")
            pause = time.monotonic() + harm.pause_secs
            poll(lambda pause=pause: time.monotonic() >= pause, PAUSE_SECS + 1, "the pause is over")
            done = poll(lambda harm=harm: self._try(harm), 120, f"{harm}: there is one to harm")
            self.tell(f"{number}/{len(harms)} {harm}: {done}")
        self._run.wait_until_well(self._struck)
        self.tell("all is well")

    def _try(self, harm: Harm) -> str | None:
        """Does it, and says what was done; None when there is nothing to harm right now."""
        self._run.check_alive()
        try:
            victim = self._process(harm.task)
            return self._do(harm, victim) if victim else None
        except psutil.NoSuchProcess:
            return None

    def _process(self, task: str) -> psutil.Process | None:
        """The task's TensorFlow process, unless it was harmed already."""
        pid = role_pids(self._run.lake.run_id).get(task)
        return None if pid is None or pid in self._struck else psutil.Process(pid)

    def _do(self, harm: Harm, victim: psutil.Process) -> str | None:
        match harm.kind:
            case "SIGKILL":
                victim.kill()
            case "SIGTERM":
                victim.terminate()
            case "SIGSTOP":
                victim.suspend()
            case "SIGKILL with fork server":
                servers = fork_servers()
                for server in servers:
                    server.kill()
                victim.kill()
                self._strike(harm.task, victim.pid)
                return f"pid {victim.pid}, fork servers {[server.pid for server in servers]}"
            case "newest checkpoint":
                victim.suspend()  # no newer one may come
                try:
                    newest = self._run.lake.newest_checkpoint()
                    damaged = corrupt(self._run.lake) if newest else None
                finally:
                    victim.kill()
                self._strike(harm.task, victim.pid)
                return f"pid {victim.pid}, checkpoint {damaged}"
            case "supervisor":
                return self._end_parent(
                    victim, lambda parent: "pyspark" in " ".join(parent.cmdline())
                )
            case "executor":
                return self._end_parent(victim, lambda parent: parent.name() == "java")
            case "Spark worker":
                return self._end_spark_worker(victim)
        self._strike(harm.task, victim.pid)
        return f"pid {victim.pid}"

    def _strike(self, task: str, pid: int) -> None:
        self._struck.add(pid)
        self.killed.append(task)

    def _strike_all_of(self, parent: psutil.Process) -> list[str]:
        """Notes that the processes of all tasks under `parent` end; returns these tasks."""
        pids = role_pids(self._run.lake.run_id)
        tasks = [task for task, pid in pids.items() if parent in _above(pid)]
        for task in tasks:
            self._strike(task, pids[task])
        return tasks

    def _end_parent(
        self, victim: psutil.Process, is_it: Callable[[psutil.Process], bool]
    ) -> str | None:
        """SIGKILL to the nearest process above `victim` that is it, if there is one."""
        ours = our_processes()
        for parent in _above(victim.pid):
            if parent.pid in ours and is_it(parent):
                tasks = self._strike_all_of(parent)
                parent.kill()
                return f"pid {parent.pid}, with it {', '.join(tasks)}"
        return None

    def _end_spark_worker(self, victim: psutil.Process) -> str | None:
        try:
            name = self._cluster.worker_of(victim.pid)
        except StopIteration:  # its supervisor has just died
            return None
        javas = [process for process in _above(victim.pid) if process.name() == "java"]
        tasks = self._strike_all_of(javas[1])
        self._cluster.kill_worker(name)
        self.tell(f"Spark worker {name} is gone, with it {', '.join(tasks)}")
        self._cluster.add_worker(f"{name}-next", CORES)
        return f"{name}; {name}-next has come instead"


def _above(pid: int) -> list[psutil.Process]:
    """The supervisor of a TensorFlow process, and what that runs under, nearest first."""
    supervisor = supervisor_of(pid)
    return [supervisor, *supervisor.parents()]
