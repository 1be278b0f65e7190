"""The logs of a run's processes, read from the lake, also while they grow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfos.errors import LakeError, UsageError
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory, log_path
from tfos.runtime.roles import all_tasks
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task
from tfos.spec.topology import find

_CHUNK_BYTES = 1 << 20
_LOCAL_POLL_SECS = 0.3
# each look fetches the logs anew, and a supervisor uploads its log only now and then
_REMOTE_POLL_SECS = 2.0
# how often a driver is looked for, and after how long without one, or news, a run is over
_ASK_SECS = 5.0
_LEFT_SECS = 30.0
_SELECTION = re.compile(r"([a-z]+)(?:[:-](\d+))?")
# no role of any attempt: what Spark and TensorFlow said around the driver
_DRIVER = "driver"


@dataclass(frozen=True)
class Selection:
    """Whose logs are wanted: everybody's, those of a role, or one task's."""

    role: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str | None) -> Selection:
        """Of "worker", "worker:1" or "worker-1"; None is everybody. Raises UsageError."""
        if text is None:
            return cls()
        match = _SELECTION.fullmatch(text)
        if not match or (match[1] == _DRIVER and match[2]):
            raise UsageError(f"ROLE is {text!r}: write e.g. chief, worker, worker:1 or driver")
        return cls(match[1], None if match[2] is None else int(match[2]))

    @property
    def is_driver(self) -> bool:
        return self.role == _DRIVER

    def takes(self, task: Task) -> bool:
        return self.role in (None, task.role) and self.index in (None, task.index)

    def __str__(self) -> str:
        return "any role" if self.role is None else ":".join(map(str, self._words()))

    def _words(self) -> list[object]:
        return [word for word in (self.role, self.index) if word is not None]


class Tail:
    """One log, read from where the last read ended."""

    def __init__(self, lake: RunDirectory, path: str) -> None:
        self._lake = lake
        self._path = path
        self._offset = 0

    def read(self) -> bytes:
        """What is new; of a local file at most 1 MiB at a time. Empty when nothing is."""
        data = self._read_local() if self._lake.is_local else self._read_remote()
        self._offset += len(data)
        return data

    def _read_local(self) -> bytes:
        path = self._lake.path(self._path)
        try:
            with open(path, "rb") as file:
                self._seen(file.seek(0, 2))
                file.seek(self._offset)
                return file.read(_CHUNK_BYTES)
        except OSError as error:
            raise LakeError(f"cannot read {path}: {error.strerror}") from error

    def _read_remote(self) -> bytes:
        size = self._lake.size(self._path)
        self._seen(size)
        return self._lake.read_from(self._path, self._offset) if size > self._offset else b""

    def _seen(self, size: int) -> None:
        if size < self._offset:  # begun anew, on another executor
            self._offset = 0


class _AttemptLogs:
    """The logs of one attempt, each part once.

    The log of a single task comes as it is; of others come whole lines, with the task before them.
    """

    def __init__(self, lake: RunDirectory, attempt: int, selection: Selection) -> None:
        self._lake = lake
        self._attempt = attempt
        self._selection = selection
        self._tails: dict[str, Tail] = {}
        self._begun_lines: dict[str, bytes] = {}

    def new(self, is_last: bool) -> Iterator[bytes]:
        """What there is since the last call; nothing at all when there is nothing new.

        is_last: nothing will be added, and a line that was begun comes as it is.
        """
        for name, path in self._logs():
            tail = self._tails.setdefault(name, Tail(self._lake, path))
            while data := tail.read():
                yield self._shown(name, data)
            if is_last and name in self._begun_lines:
                yield self._shown(name, b"\n")

    def _logs(self) -> list[tuple[str, str]]:
        """The logs that are wanted and there: whose each is, and its path."""
        if self._selection.is_driver:
            return [(_DRIVER, DRIVER_LOG)] if self._lake.exists(DRIVER_LOG) else []
        tasks = filter(self._selection.takes, log_tasks(self._lake, self._attempt))
        return [(str(task), log_path(self._attempt, task)) for task in tasks]

    def _shown(self, name: str, data: bytes) -> bytes:
        if self._selection.is_driver or self._selection.index is not None:
            return data
        *lines, rest = (self._begun_lines.pop(name, b"") + data).split(b"\n")
        if rest:
            self._begun_lines[name] = rest
        return b"".join(b"%s | %s\n" % (name.encode(), line) for line in lines)


def log_tasks(lake: RunDirectory, attempt: int) -> list[Task]:
    """The tasks that have a log in an attempt."""
    return sorted(map(Task.parse, lake.logged_tasks(attempt)))


def read_logs(lake: RunDirectory, selection: Selection, attempt: int | None) -> Iterator[bytes]:
    """What there is, in parts. attempt: None for the newest.

    Raises LakeError when there is no such log.
    """
    known = _check_attempt(lake, attempt)
    is_there = lake.exists(DRIVER_LOG) if selection.is_driver else bool(known)
    if not is_there:
        what = "no log of the driver" if selection.is_driver else "no logs"
        raise LakeError(f"run {lake.run_id} has {what} in {lake.url} yet; -f waits for it")
    number = attempt or max(known, default=0)
    if not selection.is_driver:
        _check_selection(selection, log_tasks(lake, number), f"attempt {number} has logs of")
    return _AttemptLogs(lake, number, selection).new(is_last=True)


def follow_logs(
    lake: RunDirectory,
    selection: Selection,
    attempt: int | None,
    has_driver: Callable[[], bool],
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[bytes]:
    """Logs as they grow, in parts, until the run or the attempt is over; blocks between them.

    attempt: None for the newest, and then those that begin meanwhile.
    has_driver: whether the run's driver can be seen; may block for some seconds.
    say: is told what a person who follows wants to know besides.
    Raises LakeError when the run will have no such log.
    """
    known = _check_attempt(lake, attempt)
    spec = lake.spec()
    if spec is not None and not selection.is_driver:
        tasks = all_tasks(_job(spec))
        _check_selection(selection, tasks, f"run {lake.run_id} has")
    current = attempt or max(known, default=0)
    return _follow(lake, selection, attempt, current, has_driver, say)


def _follow(
    lake: RunDirectory,
    selection: Selection,
    wanted: int | None,
    current: int,
    has_driver: Callable[[], bool],
    say: Callable[[str], None],
) -> Iterator[bytes]:
    """wanted: the one attempt to follow; None for `current` and all after it."""
    logs = _AttemptLogs(lake, current, selection)
    alive = asked = time.monotonic()
    while True:
        # first whether it is over, then the rest: what came last is then all there is
        has_ended = lake.result() is not None
        if not has_ended and time.monotonic() - alive > _LEFT_SECS:
            has_ended = True
            say(
                f"run {lake.run_id} has no result and nothing new, and its driver is gone or cannot"
                " be reached from here"
            )
        # the driver has one log for all attempts
        newest = current if selection.is_driver else max(lake.logged_attempts(), default=0)
        is_over = has_ended or newest > current
        is_new = False
        for part in logs.new(is_over):
            is_new = True
            yield part
        if not is_over:
            if not is_new and time.monotonic() - asked > _ASK_SECS:
                is_new = has_driver()
                asked = time.monotonic()
            if is_new:
                alive = time.monotonic()
            time.sleep(_LOCAL_POLL_SECS if lake.is_local else _REMOTE_POLL_SECS)
            continue
        if wanted is not None or newest <= current:
            return
        if current:
            say(f"attempt {newest} begins")
        current = newest
        logs = _AttemptLogs(lake, current, selection)


def _check_attempt(lake: RunDirectory, attempt: int | None) -> list[int]:
    known = lake.logged_attempts()
    if attempt is not None and attempt not in known:
        there = f"there are {_join(known)}" if known else "there are none yet"
        raise LakeError(f"run {lake.run_id} has no logs of attempt {attempt}: {there}")
    return known


def _check_selection(selection: Selection, tasks: Iterable[Task], there: str) -> None:
    if not any(selection.takes(task) for task in tasks):
        raise LakeError(
            f"there is no log of {selection}: {there} {_join(sorted(tasks)) or 'no role'}"
        )


def _join(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _job(spec: Mapping[str, Any]) -> JobSpec:
    # which roles there are depends on these alone; the rest may be of another version
    return JobSpec(find(spec["strategy"]).of(spec), evaluator=spec.get("evaluator", False))
