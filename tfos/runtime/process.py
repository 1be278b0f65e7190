"""A child process that cannot outlive its parent.

The child leads its own process group, so that all it started ends with it, and has a guardian: see
tfos.runtime.guardian.
"""

from __future__ import annotations

import abc
import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from tfos.fault.failures import crash_advice
from tfos.runtime.guardian import guardian


class GuardedProcess(abc.ABC):
    """A process that leads a process group, under a guardian that ends it when we die.

    pid: its number, and that of its group. stdin: of the process.
    """

    pid: int
    stdin: IO[bytes]
    _scratch: str
    _ended: int | None = None

    @abc.abstractmethod
    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""

    @abc.abstractmethod
    def wait(self, timeout_secs: float | None = None) -> int:
        """Blocks until the process ends. Raises subprocess.TimeoutExpired."""

    @abc.abstractmethod
    def _dismiss_guardian(self) -> None:
        """Lets the guardian go, of a process that has ended."""

    def signal(self, signum: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def signal_group(self, signum: int) -> None:
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            pass

    def end(self, grace_secs: float = 5.0, keep_scratch: bool = False) -> int:
        """Ends the whole group: SIGTERM, `grace_secs` to comply, SIGKILL. Returns the exit status.

        grace_secs: 0 for SIGKILL at once. keep_scratch: for a child that takes over from this one.
        May be called again, and after the child has ended by itself: what it left is killed.
        """
        if self._ended is not None:  # its number may be another's by now
            return self._ended
        if grace_secs and self.poll() is None:
            self.signal_group(signal.SIGTERM)
            # a stopped process takes SIGTERM only once it runs again
            self.signal_group(signal.SIGCONT)
            try:
                self.wait(grace_secs)
            except subprocess.TimeoutExpired:
                pass
        self.signal_group(signal.SIGKILL)
        status = self._ended = self.wait()
        self._dismiss_guardian()
        try:
            self.stdin.close()
        except BrokenPipeError:
            pass
        if self._scratch and not keep_scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return status


class ChildProcess(GuardedProcess):
    """Starts `argv` in a process group of its own.

    log: file descriptor that takes the child's stdout, and its stderr unless `errors` does.
    scratch: a directory that is removed when the child has ended, or with it when we die.
    pass_fds: descriptors that the child inherits.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: int,
        errors: int | None = None,
        scratch: str = "",
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log if errors is None else errors,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        assert self._process.stdin is not None
        self.pid, self.stdin = self._process.pid, self._process.stdin
        self._guardian = subprocess.Popen(
            guardian(self.pid, os.getpid(), "", scratch),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout_secs: float | None = None) -> int:
        return self._process.wait(timeout_secs)

    def _dismiss_guardian(self) -> None:
        if self._guardian.poll() is None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.write(b".")
            self._guardian.stdin.close()
            self._guardian.wait()


def describe_status(status: int) -> str:
    """An exit status in words: "exited with status 7", "was killed by SIGSEGV"."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def describe_end(status: int) -> str:
    """Of a process that we started, with our limits, and that ended without a word."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    advice = crash_advice(status, None if limit == resource.RLIM_INFINITY else limit)
    said = f"its process {describe_status(status)}"
    return f"{said}: {advice}" if advice else said
