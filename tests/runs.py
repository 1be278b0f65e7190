"""A run that is looked at, harmed and finished by a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import psutil
from conftest import APPS, poll, role_pids, start_submit, supervisor_of

from tfos.client.control import read_status
from tfos.client.status import Status
from tfos.lake.run_directory import RunDirectory


class Run:
    """A run of `app` with a lake on this machine.

    An app that takes `--until FILE` goes on until finish() makes the file; takes_until: False for
    others.
    """

    def __init__(
        self,
        lake: Path,
        run_id: str,
        *options: object,
        app: Path = APPS / "counting.py",
        args: tuple[object, ...] = ("--epochs", 10_000),
        where: Callable[..., list[str]] = lambda *argv: list(argv),
        takes_until: bool = True,
    ):
        self.lake = RunDirectory(str(lake), run_id)
        self._until = lake / f"{run_id}.finish"
        # no pipe, which would be full one day: nobody reads it while the run is under way
        sink, self._stderr = tempfile.mkstemp(prefix=f"{run_id}-")
        self._process = start_submit(
            "--json", "--run-id", run_id, "--lake", lake, "--checkpoint-secs", 2, *options,
            app, *(("--until", self._until) if takes_until else ()), *args,
            stderr=sink, where=where,
        )  # fmt: skip
        os.close(sink)

    @property
    def status(self) -> Status:
        return read_status(self.lake)

    @property
    def trained(self) -> tuple[int, int, int]:
        """How far the run is: (attempt, restarts of the chief, rows trained on in this life)."""
        return _trained(self.status)

    @property
    def stderr(self) -> str:
        """What pl_submit has written there so far."""
        return Path(self._stderr).read_text(errors="replace")

    def pid(self, task: str) -> int:
        return int(poll(lambda: role_pids(self.lake.run_id).get(task), 60, f"{task} runs"))

    def supervisor(self, task: str) -> int:
        return supervisor_of(self.pid(task)).pid

    def executor(self, task: str) -> int:
        """The JVM that the task's supervisor belongs to."""
        parents = supervisor_of(self.pid(task)).parents()
        return int(next(process.pid for process in parents if process.name() == "java"))

    def driver(self) -> psutil.Process:
        def found() -> psutil.Process | None:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                try:
                    if any(part.endswith("cli/script.py") for part in process.cmdline()[1:2]):
                        return process
                except psutil.Error:  # it has just ended
                    pass
            return None

        return poll(found, 60, "the driver runs")

    def wait_until_well(self, struck: Container[int] = ()) -> None:
        """Waits until every role is up again, and rows are trained on.

        struck: the pids of the processes that were harmed; in them no role is up.
        """

        def is_well() -> bool:
            self.check_alive()
            status = self.status
            return (
                bool(status.roles)
                and all(role.state in ("up", "training") for role in status.roles)
                and all(_runs(role.pid) and role.pid not in struck for role in status.roles)
                and _trained(status)[2] > 0
                and self.lake.newest_checkpoint() is not None
            )

        poll(is_well, 180, "the run recovers")
        before = self.trained
        poll(lambda: self.trained > before, 60, "the training goes on")

    def wait_for_training(self, more_than: int = 0) -> int:
        """Waits for a checkpoint and for rows of the chief's present life; returns the failures."""

        def trains() -> bool:
            self.check_alive()
            return (
                len(self.status.failures) >= more_than
                and self.trained[2] > 0
                and self.lake.newest_checkpoint() is not None
            )

        poll(trains, 180, "the run trains")
        before = self.trained
        poll(lambda: self.trained > before, 60, "the training goes on")
        return len(self.status.failures)

    def survive(self, harm: Callable[[], object]) -> None:
        """Does `harm`, and waits until the run has noticed, has replaced somebody and is well."""
        failures = self.wait_for_training()
        before = {role.pid for role in self.status.roles}
        harm()

        def is_replaced() -> bool:
            self.check_alive()
            status = self.status
            # a failure is told before it is decided on, and the chief may tell of rows until then
            return len(status.failures) > failures and not (
                {role.pid for role in status.roles} <= before
            )

        poll(is_replaced, 180, "the run replaces what was harmed")
        self.wait_until_well()

    def check_alive(self) -> None:
        """Fails the test when the run has ended."""
        if self._process.poll() is not None:
            raise AssertionError(f"the run ended: {self.stderr}")

    def finish(self, secs: float = 120) -> dict[str, Any]:
        """Lets the epoch under way be the last one; returns the result."""
        self._until.touch()
        try:
            stdout, _ = self._process.communicate(timeout=secs)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run does not finish: {self.status}") from None
        assert self._process.returncode == 0, self.stderr
        return dict(json.loads(stdout.splitlines()[-1]))

    def fail(self, secs: float = 120) -> tuple[dict[str, Any], str]:
        """Waits until the run fails; returns its result, and its last words on stderr."""
        stdout, _ = self._process.communicate(timeout=secs)
        stderr = self.stderr
        assert self._process.returncode == 1, stderr
        result = dict(json.loads(stdout.splitlines()[-1]))
        assert result["status"] == "failed"
        return result, stderr.rpartition("tfos: the run failed: ")[2]

    def interrupt(self) -> None:
        """What Ctrl-C does to pl_submit."""
        self._pl_submit.send_signal(signal.SIGINT)

    @property
    def _pl_submit(self) -> psutil.Process:
        """Itself, and not what has taken it to another machine and waits for it."""
        process = psutil.Process(self._process.pid)
        return process.children()[0] if process.name() == "nsenter" else process

    def wait_for_end(self, secs: float = 60) -> None:
        """Waits until pl_submit has ended, however the run did."""
        self._process.communicate(timeout=secs)

    def close(self) -> bool:
        """Ends pl_submit; returns whether it still ran."""
        if self._process.poll() is not None:
            return False
        self._pl_submit.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)
        return True


def causes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(task, kind) of the failures, without what others raised, or died of, at the same time."""
    return [
        (f"{failure['role']}-{failure['index']}", failure["kind"])
        for failure in result["failures"]
        if failure["kind"] not in ("exception", "crash", "peer")
    ]


def _trained(status: Status) -> tuple[int, int, int]:
    progress = status.progress or {}
    restarts = sum(role.restarts for role in status.roles if role.task == "chief-0")
    rows = progress.get("epoch", 0) * progress.get("rows", 0) + progress.get("rows_done", 0)
    return status.attempt or 0, restarts, rows if progress.get("phase") == "train" else 0


def _runs(pid: int | None) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
