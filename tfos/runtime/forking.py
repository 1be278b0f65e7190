"""Processes of roles that are forked by the fork server of this executor, and asking for them.

A fork server, tfos.runtime.fork_server, has imported what the roles need, and lives as long as the
executor. Whoever asks leaves it four descriptors and what the process is to be, over a socket in a
directory that only this user can enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tfos.errors import TFOSError
from tfos.runtime.guardian import OWNED, bare, born
from tfos.runtime.process import GuardedProcess
from tfos.spec.roles import CHIEF, Task
from tfos.spec.topology import Topology

# how long a process may take to be there: the server may be importing yet; once it has given one,
# it imports only when it was killed, and one that is stuck is not waited for longer than that
_FORK_SECS, _AGAIN_SECS = 60.0, 20.0
_CONNECT_SECS = 10.0
_PAUSE_SECS = 0.02
SOCKET = "socket"
_LOCK, _LOG = "lock", "log"

# It starts the server, again when it is killed, and ends it with the executor, or when the server
# itself is done. argv: directory, pid and start time of the executor, command.
_KEEPER = (
    """
import sys
directory, owner, born, command = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
"""
    + OWNED
    + """
import subprocess
deaths = 0
while deaths < 3:
    begun = time.monotonic()
    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    while server.poll() is None and has_owner():
        if select.select([children], [], [], 1.0)[0]:
            os.read(children, 64)
    if server.returncode in (None, 0):
        break
    deaths = deaths + 1 if time.monotonic() - begun < 60 else 0
server.kill()
server.wait()
shutil.rmtree(directory, ignore_errors=True)
"""
)


class CannotFork(TFOSError):
    """There is no forked process; the message says why, and a new process is what to use."""


class _ServerEnded(CannotFork):
    pass


@dataclass(frozen=True)
class ForkServer:
    """The fork server of the executor that this process belongs to. Picklable.

    preload: modules that the user names; it imports those of the topology first.
    """

    topology: Topology
    preload: tuple[str, ...]

    def start(self) -> None:
        """Starts it where there is none yet; does not wait for its imports.

        In a task of Spark: the server ends with what this process is a child of, Spark's daemon of
        Python processes or its JVM. Raises CannotFork.
        """
        self._connect().close()

    def ask(self, fds: Sequence[int], order: Mapping[str, object]) -> None:
        """Has a process forked, that tells of itself on the last of `fds`. Raises CannotFork.

        See tfos.runtime.fork_server for what `order` says.
        """
        payload = json.dumps(order).encode()
        try:
            with self._connect() as connection:
                socket.send_fds(connection, [len(payload).to_bytes(4, "big")], list(fds))
                connection.sendall(payload)
        except OSError as error:
            raise CannotFork(f"the fork server did not take the order: {error}") from error

    @property
    def patience_secs(self) -> float:
        """How long it is waited for."""
        return _AGAIN_SECS if self in _have_forked else _FORK_SECS

    def _connect(self) -> socket.socket:
        executor = os.getppid()
        executor_born = _born(executor)
        deadline = time.monotonic() + _CONNECT_SECS
        problem: Exception | None = None
        with contextlib.ExitStack() as stack:
            log: IO[bytes] | None = None
            while time.monotonic() < deadline:
                try:
                    directory = self._directory(executor, executor_born)
                    with held(directory) as lock:
                        if lock is not None and log is not None:
                            shutil.rmtree(directory, ignore_errors=True)
                            words = log.read()[-500:].decode(errors="replace").strip()
                            raise CannotFork(f"the fork server ends as it begins: {words}")
                        if lock is not None:
                            self._launch(directory, executor, executor_born, lock)
                            # open, it can be read when its directory is gone
                            log = stack.enter_context(open(directory / _LOG, "rb"))
                    return _connected(directory, self.patience_secs)
                # one ends, or has just begun, or has many who ask
                except (FileNotFoundError, ConnectionError, BlockingIOError) as error:
                    problem = error
                    time.sleep(_PAUSE_SECS)
                except OSError as error:
                    raise CannotFork(f"no fork server can be started: {error}") from error
        raise CannotFork(f"no fork server answers within {_CONNECT_SECS:g} s: {problem}")

    @property
    def _environment(self) -> Mapping[str, str]:
        return self.topology.environment(Task(CHIEF, 0), os.environ)

    def _directory(self, executor: int, executor_born: str) -> Path:
        """A directory of our own; its name is the same for all who want this server here."""
        # what is shipped may have changed under the same names
        path = sys.path if self.preload else []
        wanted = (self.topology.preload, self.preload, sorted(self._environment.items()), path)
        key = hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]
        name = f"tfos-fork-{os.getuid()}-{executor}-{executor_born}-{key}"
        directory = Path(tempfile.gettempdir(), name)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        # no link, and nobody else's; a set-group-ID bit may come from the directory above
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not ours or stat.S_IMODE(found.st_mode) & 0o077:
            raise CannotFork(f"{directory} is not ours alone")
        return directory

    def _launch(self, directory: Path, executor: int, executor_born: str, lock: int) -> None:
        server = [sys.executable, "-X", "faulthandler", "-m", "tfos.runtime.fork_server"]
        modules = json.dumps([self.topology.preload, self.preload])
        # its processes are named in the room of this line, which must have enough
        command = [*server, str(directory), modules, " " * 200]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **self._environment,
            "PYTHONUNBUFFERED": "1",
            "SPT_NOENV": "1",  # setproctitle is to leave the environment readable
        }
        with open(directory / _LOG, "ab") as log:
            subprocess.Popen(
                bare(_KEEPER, str(directory), str(executor), executor_born, *command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],  # it holds the lock for as long as it lives
            )


# those that have given this process one before
_have_forked: set[ForkServer] = set()


def _born(pid: int) -> str:
    if not sys.platform.startswith("linux"):
        raise CannotFork(f"processes are not forked on {sys.platform}")
    try:
        return born(pid)
    except OSError as error:
        raise CannotFork(f"/proc does not tell of process {pid}: {error}") from error


@contextlib.contextmanager
def held(directory: Path) -> Iterator[int | None]:
    """A descriptor of the directory's lock; None where another process, a keeper, holds it."""
    path = directory / _LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if os.stat(path).st_ino != os.fstat(lock).st_ino:  # its directory has just been removed
            raise FileNotFoundError(path)
        yield lock
    finally:
        os.close(lock)


def _connected(directory: Path, patience_secs: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(patience_secs)
    try:
        with short_path(directory) as path:
            connection.connect(f"{path}/{SOCKET}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A path of a directory that fits into the address of a socket, 108 bytes (unix(7))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class ForkedProcess(GuardedProcess):
    """A process of a role, forked from `server`; its guardian tells us of its end.

    argv: as tfos.runtime.main has it, after the program. env, log, scratch: as of ChildProcess.
    channel: the descriptor that CHANNEL_FD is to name there.
    Raises CannotFork.
    """

    def __init__(
        self,
        server: ForkServer,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: int,
        channel: int,
        scratch: str,
    ) -> None:
        self._scratch = scratch
        self._status: int | None = None
        self._over = threading.Event()
        self._is_unguarded = False
        order = {
            "argv": list(argv),
            "env": dict(env),
            "path": sys.path,
            "directory": os.getcwd(),
            "owner": os.getpid(),
            "born": _born(os.getpid()),
            "scratch": scratch,
        }
        try:
            self._ask(server, order, log, channel)
        except _ServerEnded:  # it was killed with our order; its keeper has begun the next one
            self._ask(server, order, log, channel)
        self._guardian.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()

    def _ask(self, server: ForkServer, order: Mapping[str, object], log: int, channel: int) -> None:
        self._guardian, theirs = socket.socketpair()
        self._words = self._guardian.makefile("r")
        stdin, write_end = os.pipe()
        self.stdin = os.fdopen(write_end, "wb")
        try:
            try:
                server.ask([log, stdin, channel, theirs.fileno()], order)
            finally:
                os.close(stdin)
                theirs.close()
            self._guardian.settimeout(server.patience_secs)
            self.pid = self._first_words()
            _have_forked.add(server)
        except BaseException:
            self.stdin.close()
            self._dismiss_guardian()  # a process that comes up too late ends at once
            raise

    def _first_words(self) -> int:
        try:
            said = self._words.readline().strip()
        except OSError as error:
            raise CannotFork(f"the fork server gave no process: {error}") from error
        if not said:
            raise _ServerEnded("the fork server ended before it gave a process")
        if not said.isdigit():
            raise CannotFork(said)
        return int(said)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            status = self._words.readline()
            if status:
                self._status = int(status)
        if self._status is None:  # its guardian is gone, and it is nobody's
            self.signal_group(signal.SIGKILL)
            self._status = -signal.SIGKILL
            self._is_unguarded = True
        self._over.set()

    def signal_group(self, signum: int) -> None:
        if not self._is_unguarded:  # else its number may be another's by now
            super().signal_group(signum)

    def poll(self) -> int | None:
        return self._status if self._over.is_set() else None

    def wait(self, timeout_secs: float | None = None) -> int:
        if not self._over.wait(timeout_secs):
            assert timeout_secs is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_secs)
        assert self._status is not None
        return self._status

    def _dismiss_guardian(self) -> None:
        """It ends what is left of the process, and leaves the scratch directory to us."""
        with contextlib.suppress(OSError):
            self._guardian.sendall(b".")
        self._words.close()
        self._guardian.close()
