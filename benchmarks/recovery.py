"""How long a failure holds up the training: python benchmarks/recovery.py [--quick] [--against DIR]

Runs the counting app of the tests on a standalone Spark cluster on this machine (a master and three
workers), kills one part after the other, and reads from the chief's own record of its steps:

  back      seconds from the kill to the first training step after it; where roles restart, the
            first step of the new chief
  standing  seconds in which no worker trained, beyond the usual pause between two units
  lost      steps that had been made and are made again, from the last checkpoint on

It compares with the alternative to recovery inside the run, the driver killed and the run continued
by `pl_submit --resume`, and with another checkout. --quick leaves out what needs a new attempt.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import conftest
from conftest import APPS, SparkCluster
from runs import Run

sys.path.insert(0, str(APPS))
from counting import UNIT_STEPS
from submit import add_against, builds

from tfos.runtime.zookeeper import EmbeddedZooKeeper

_ARGS = ("--epochs", 100_000, "--rows", 40_000, "--unit-secs", 0.02)


@dataclass
class Row:
    what: str
    back: float
    standing: float
    lost: int


class Timeline:
    """The chief's record: when it had made how many steps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[float, int]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        return [(float(at), int(steps)) for at, steps in (line.split() for line in lines)]

    def measure(self, what: str, killed: float, restarts: bool) -> Row:
        points = self.read()
        before = [point for point in points if point[0] <= killed]
        after = [point for point in points if point[0] > killed]
        usual = statistics.median(b[0] - a[0] for a, b in pairwise(before[-200:]))
        # the old chief may have ended a unit or two after the kill: the new one begins behind it
        first = 0
        if restarts:
            around = [before[-1], *after]
            first = max(
                range(len(after)), key=lambda at: around[at + 1][0] - around[at][0], default=0
            )
        made = max(steps for _, steps in [before[-1], *after[:first]])
        window = [before[-1], *[point for point in after if point[0] < killed + 60]]
        gap = max(b[0] - a[0] for a, b in pairwise(window))
        # a unit is in the record when it has ended
        lost = max(0, made - (after[first][1] - UNIT_STEPS)) if restarts else 0
        return Row(what, after[first][0] - killed, max(0.0, gap - usual), lost)


def wait(condition: Callable[[], bool], what: str, secs: float = 180.0) -> None:
    """Seldom enough that the asking does not slow down what is measured."""
    deadline = time.monotonic() + secs
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {secs:g} s: {what}")
        time.sleep(0.5)


def measure(
    run: Run, timeline: Timeline, what: str, harm: Callable[[], object], restarts: bool
) -> Row:
    failures = run.wait_for_training()
    time.sleep(16)  # what a run prepares for the next failure is ready by then
    chief = run.trained[:2]
    killed = time.time()
    harm()
    wait(lambda: len(run.status.failures) > failures, "the failure is noticed")
    if restarts:
        wait(lambda: run.trained[:2] > chief, "there is a new chief")
    made = len(timeline.read())
    wait(lambda: len(timeline.read()) > made + 40, "the training goes on")
    row = timeline.measure(what, killed, restarts)
    print(f"  {row.what:44s} {row.back:7.2f} {row.standing:9.2f} {row.lost:6d}", flush=True)
    return row


def pid_of(run: Run, task: str) -> int:
    """As the run says: another build may have more than one process of a task."""
    return next(role.pid for role in run.status.roles if role.task == task and role.pid)


def processes(run: Run, timeline: Timeline) -> list[Row]:
    def kill(task: str, signum: int = signal.SIGKILL) -> Callable[[], object]:
        return lambda: os.kill(pid_of(run, task), signum)

    return [
        measure(run, timeline, "worker process", kill("worker-1"), False),
        measure(run, timeline, "ps process", kill("ps-1"), True),
        measure(run, timeline, "chief process", kill("chief-0"), True),
        measure(run, timeline, "chief process, SIGTERM", kill("chief-0", signal.SIGTERM), True),
    ]


def attempts(run: Run, timeline: Timeline, cluster: SparkCluster) -> list[Row]:
    rows = [
        measure(
            run, timeline, f"supervisor of {task}",
            lambda task=task: os.kill(run.supervisor(task), signal.SIGKILL), True,
        )
        for task in ("worker-0", "ps-0", "chief-0")
    ]  # fmt: skip
    rows.append(
        measure(
            run, timeline, "executor JVM of ps-0",
            lambda: os.kill(run.executor("ps-0"), signal.SIGKILL), True,
        )
    )  # fmt: skip
    rows.append(
        measure(
            run, timeline, "Spark worker of chief-0, with its executors",
            lambda: cluster.kill_worker(cluster.worker_of(run.pid("chief-0"))), True,
        )
    )  # fmt: skip
    return rows


def resume(run: Run, timeline: Timeline, again: Callable[[], Run]) -> tuple[Row, Run]:
    run.wait_for_training()
    killed = time.time()
    run.driver().kill()
    run.wait_for_end()
    made = len(timeline.read())
    continued = again()
    wait(lambda: len(timeline.read()) > made + 40, "the run is continued")
    row = timeline.measure("driver, and then pl_submit --resume", killed, True)
    print(f"  {row.what:44s} {row.back:7.2f} {row.standing:9.2f} {row.lost:6d}", flush=True)
    return row, continued


def turn(home: Path, build: Path, zookeeper: str, quick: bool) -> list[Row]:
    """All kills, of a run of `build` on a cluster of its own."""
    conftest.ROOT = build  # whose pl_submit the tests' helpers run
    home.mkdir()
    timeline = Timeline(home / "timeline")
    cluster = SparkCluster(home)
    runs: list[Run] = []

    def start(*options: object) -> Run:
        return Run(
            home, "run", "--master", cluster.url, "--zookeeper", f"{zookeeper}/{home.name}",
            "--num-ps", 2, "--num-workers", 2, "--conf", "spark.driver.host=127.0.0.1", *options,
            args=(*_ARGS, "--timeline", timeline.path),
        )  # fmt: skip

    try:
        for name in "abc":
            cluster.add_worker(name, 3)
        runs.append(start())
        rows = processes(runs[-1], timeline)
        if not quick:
            rows += attempts(runs[-1], timeline, cluster)
        row, continued = resume(runs[-1], timeline, lambda: start("--resume"))
        runs.append(continued)
        stats = runs[-1].finish()["checkpoints"]
        save, stall = (stats[key] / stats["saved"] for key in ("save_secs", "stall_secs"))
        print(f"  a checkpoint takes {save:.3f} s; training stands still for {stall:.3f} s of it")
    finally:
        for run in runs:
            run.close()
        cluster.close()
    return [*rows, row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only failures of single processes")
    parser.add_argument("--turns", type=int, default=1)
    add_against(parser)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench-recovery-"))
    server = EmbeddedZooKeeper("127.0.0.1")
    server.wait()
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for number in range(options.turns):
            for name, build in builds(options.against).items():
                print(f"turn {number + 1}, {name}:")
                print(f"  {'what is killed':44s} {'back':>7s} {'standing':>9s} {'lost':>6s}")
                for row in turn(home / f"{name}-{number}", build, server.hosts, options.quick):
                    found.setdefault(row.what, {}).setdefault(name, []).append(row.back)
    finally:
        server.stop()
    medians = {
        what: {name: statistics.median(secs) for name, secs in by_build.items()}
        for what, by_build in found.items()
    }
    print("\nmedian seconds until training again, and how many times faster than --resume:")
    again = list(medians.values())[-1]["now"]
    for what, secs in medians.items():
        print(f"  {what:44s} {secs['now']:7.2f} {again / max(secs['now'], 0.01):8.1f}x", end="")
        before = secs.get("before")
        print(f"  {secs['now'] / before:5.2f}x of {before:.2f} before" if before else "")


if __name__ == "__main__":
    main()
