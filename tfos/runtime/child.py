"""A TF process as its supervisor holds it: forked or started, given its order, watched to its end.

It waits for its start order. One that is not forked begins by importing TensorFlow.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tfos.fault.hang import HangWatch
from tfos.runtime.forking import CannotFork, ForkedProcess, ForkServer
from tfos.runtime.process import ChildProcess, GuardedProcess
from tfos.runtime.protocol import (
    CHANNEL_FD,
    STACKS_SIGNAL,
    Alive,
    Meets,
    Message,
    Order,
    Progress,
    Quiet,
    SaveSoon,
    StartOrder,
    from_line,
    to_line,
)
from tfos.spec.roles import CHIEF, Task
from tfos.spec.topology import Topology

_STACKS_SECS = 0.5
_LAST_WORDS_SECS = 2.0


class TFProcess:
    """One TF process of `task`.

    server: forks it; without one, or where that cannot be, a new Python is started, and the log
    says why. preload: the modules that the app wants to be imported.
    devices: environment variables that say which GPUs it sees.
    scratch: a directory of the supervisor's; it goes when the supervisor dies. Ours is inside it.
    log: a file that all processes of the task append to.
    on_said, on_exit: called from a thread of ours, with this process and what it said or its exit
    status.
    life, watch: 0 and None until begin().
    """

    def __init__(
        self,
        task: Task,
        run_id: str,
        topology: Topology,
        scratch: str,
        log: Path,
        on_said: Callable[[TFProcess, Message], None],
        on_exit: Callable[[TFProcess, int], None],
        server: ForkServer | None = None,
        preload: Sequence[str] = (),
        devices: Mapping[str, str] | None = None,
    ) -> None:
        self.task = task
        self.life = 0
        self.watch: HangWatch | None = None
        self._on_said, self._on_exit = on_said, on_exit
        self.scratch = tempfile.mkdtemp(prefix="process-", dir=scratch)
        read_end, write_end = os.pipe()
        env = {
            **os.environ,
            # what Spark shipped to this executor is on sys.path: the child needs it as well
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            **topology.environment(task, os.environ),
            **(devices or {}),
            "TMPDIR": self.scratch,  # a process that is killed cannot clean up
            CHANNEL_FD: str(write_end),
        }
        # the run's id is for who reads `ps`
        argv = [str(task), run_id, topology.name, *preload]
        try:
            with open(log, "ab", buffering=0) as sink:
                self._process = _process(server, argv, env, sink, write_end, scratch)
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        listener = threading.Thread(target=self._listen, args=(read_end,), daemon=True)
        listener.start()
        threading.Thread(target=self._await_end, args=(listener,), daemon=True).start()

    def _await_end(self, listener: threading.Thread) -> None:
        status = self._process.wait()
        # what user code forked holds the channel open, too; it ends with the one that forked it
        self._process.signal_group(signal.SIGKILL)
        listener.join(_LAST_WORDS_SECS)
        self._on_exit(self, status)

    def _listen(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb") as channel:
            for line in channel:
                message: Message = from_line(line)
                now = time.monotonic()
                if self.watch is not None:
                    _watched(self.watch, message, now)
                if not isinstance(message, Alive):
                    self._on_said(self, message)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int:
        """The exit status of a process that has ended."""
        return self._process.wait()

    def begin(self, life: int, hang_secs: float) -> None:
        """Makes it the process of life `life`."""
        self.life = life
        self._hang_secs = hang_secs
        self.watch = HangWatch(hang_secs, False, time.monotonic())

    def order(self, order: StartOrder) -> None:
        """Tells it to begin its work."""
        self.watch = HangWatch(self._hang_secs, self.task.role == CHIEF, time.monotonic())
        self._write(order)

    def save_soon(self) -> None:
        self._write(SaveSoon())

    def _write(self, order: Order) -> None:
        try:
            self._process.stdin.write(to_line(order))
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just died: its exit is the next event

    def write_stacks(self) -> None:
        """Leaves the stacks of its threads in its log."""
        self._process.signal(STACKS_SIGNAL)
        self._process.signal(signal.SIGCONT)  # one that is stopped takes a signal when it goes on
        time.sleep(_STACKS_SECS)

    def kill(self) -> None:
        """Ends it; on_exit follows."""
        self._process.signal_group(signal.SIGKILL)

    def end(self) -> None:
        """Ends it and removes what it left. May be called again."""
        self._process.end(grace_secs=0, keep_scratch=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _process(
    server: ForkServer | None,
    argv: Sequence[str],
    env: Mapping[str, str],
    sink: IO[bytes],
    channel: int,
    scratch: str,
) -> GuardedProcess:
    """Forked where that is possible, else started."""
    log = sink.fileno()
    if server is not None:
        try:
            return ForkedProcess(server, argv, env=env, log=log, channel=channel, scratch=scratch)
        except CannotFork as why:
            sink.write(f"tfos: this process is started, not forked: {why}\n".encode())
    # faulthandler: a crash in C leaves the Python stack in the log
    program = [sys.executable, "-X", "faulthandler", "-m", "tfos.runtime.main", *argv]
    return ChildProcess(program, env=env, log=log, scratch=scratch, pass_fds=[channel])


def _watched(watch: HangWatch, message: Message, now: float) -> None:
    match message:
        case Alive():
            watch.alive(now)
        case Quiet(begins):
            watch.quiet(begins, now)
        case Meets(begins):
            watch.meets(begins, now)
        case Progress(progress):
            watch.moved(now, progress)
        case _:
            watch.moved(now)
