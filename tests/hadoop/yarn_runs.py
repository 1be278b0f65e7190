"""Runs in cluster mode, from an edge node."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
from conftest import APPS, poll, role_pids, start_submit, supervisor_of

from tfos.lake.run_directory import RunDirectory

COUNTING = APPS / "counting.py"


def submit(run_id: str, lake: str, *options: object, args: tuple[object, ...]) -> subprocess.Popen:
    return start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--strategy", "ps", "--num-ps", 1,
        "--num-workers", 1, "--num-executors", 3, "--lake", lake, "--run-id", run_id,
        "--checkpoint-secs", 2, *options, COUNTING, *args,
    )  # fmt: skip


def lines_of(process: subprocess.Popen) -> tuple[list[str], threading.Thread]:
    """What it writes on stderr, as it comes."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    return lines, reader


class Training:
    """A run that trains on HDFS's lake until finish(), and is followed meanwhile."""

    def __init__(self, run_id: str, home: Path, *options: object) -> None:
        self.run_id = run_id
        self.lake = RunDirectory("hdfs:///runs", run_id)
        self._until = home / f"{run_id}.finish"
        args = ("--epochs", 10_000, "--until", self._until)
        self.process = submit(run_id, "hdfs:///runs", *options, args=args)
        self.lines, self._reader = lines_of(self.process)

    def wait_for_training(self, attempts: int = 1) -> None:
        """Waits for a checkpoint, and for training in the launch of roles with that number."""

        def trains() -> bool:
            assert self.process.poll() is None, "".join(self.lines)
            starts = [n for n, line in enumerate(self.lines) if "starting ps-0, chief-0" in line]
            return (
                len(starts) >= attempts
                and any("train epoch" in line for line in self.lines[starts[-1] :])
                and self.lake.newest_checkpoint() is not None
            )

        poll(trains, 240, "it trains")

    def wait_for_checkpoint(self, after: str | None) -> None:
        """Waits for a newer one than that."""

        def is_there() -> bool:
            assert self.process.poll() is None, "".join(self.lines)
            return self.lake.newest_checkpoint() != after

        poll(is_there, 120, "there is a checkpoint")

    def pid(self, task: str) -> int:
        """Of the task's TensorFlow process."""
        return role_pids(self.run_id)[task]

    def container(self, task: str) -> int:
        """The JVM of the executor that a task runs on."""
        parents = supervisor_of(self.pid(task)).parents()
        return int(next(process.pid for process in parents if process.name() == "java"))

    def driver(self) -> psutil.Process:
        """The JVM of its application master, in which the driver runs."""
        return next(
            process
            for process in map(psutil.Process, psutil.pids())
            if process.name() == "java"
            and any("ApplicationMaster" in word for word in process.cmdline())
            and self.run_id in process.cmdline()
        )

    def finish(self) -> dict[str, Any]:
        """Lets the epoch under way be the last one; returns the result."""
        self._until.touch()
        assert self.process.wait(300) == 0, "".join(self.lines)
        self._reader.join(10)
        result = self.lake.result()
        assert result is not None
        return result
