"""A child process that cannot outlive its parent.

The child leads its own process group, so that all it started ends with it. Beside it runs a
guardian, a bare Python of a few megabytes that holds one end of a pipe: when the parent dies,
however it dies, the pipe closes, and the guardian kills the group and removes the scratch
directory. (dask/distributed's process.py ends children by such a pipe; the guardian does it
for children that are stopped, busy in C, or not Python.)
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from tfos.fault.failures import crash_advice

# A dead parent is seen by EOF or, where a fork of it still holds the pipe, by a new parent pid.
_GUARDIAN = """
import os, select, shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
group, parent, scratch = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
while os.getppid() == parent and not select.select([0], [], [], 1.0)[0]:
    pass
if os.getppid() != parent or os.read(0, 1) == b"":
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.05)
    except ProcessLookupError:
        pass
    # a process on its way out may still have written there
    deadline = time.monotonic() + 10
    while scratch and os.path.exists(scratch) and time.monotonic() < deadline:
        shutil.rmtree(scratch, ignore_errors=True)
"""


class ChildProcess:
    """Starts `argv` in a process group of its own, under a guardian.

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
        self.pid = self._process.pid
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(self.pid), str(os.getpid()), scratch],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def stdin(self) -> IO[bytes]:
        stdin = self._process.stdin
        assert stdin is not None
        return stdin

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the child runs."""
        return self._process.poll()

    def wait(self, timeout_secs: float | None = None) -> int:
        """Blocks until the child ends. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_secs)

    def signal(self, signum: int) -> None:
        if self._process.poll() is None:
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
        if grace_secs and self._process.poll() is None:
            self.signal_group(signal.SIGTERM)
            # a stopped process takes SIGTERM only once it runs again
            self.signal_group(signal.SIGCONT)
            try:
                self._process.wait(grace_secs)
            except subprocess.TimeoutExpired:
                pass
        self.signal_group(signal.SIGKILL)
        status = self._process.wait()
        if self._guardian.poll() is None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.write(b".")
            self._guardian.stdin.close()
            self._guardian.wait()
        if self._process.stdin:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        if self._scratch and not keep_scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return status


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
