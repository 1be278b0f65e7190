"""The fork server of an executor: it imports once what every role needs, and forks their processes.

    python -m tfos.runtime.fork_server DIRECTORY [[TRUSTED...],[PRELOAD...]]

It initializes nothing, no device, no eager context, no client: all of that is made after the fork,
as hardly any of it survives one. Orders come over a socket in DIRECTORY, each with the descriptors
of its log, its stdin, its channel and its guardian's socket, and with the JSON object that
tfos.runtime.forking.ForkedProcess writes. For each a guardian is forked, which forks the process
and then becomes a bare Python: when this server dies, the processes and who watches them live on.

It ends when its keeper does (its stdin closes), and after an idle while.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from tfos.runtime.forking import SOCKET, held, short_path
from tfos.runtime.guardian import guardian
from tfos.runtime.protocol import CHANNEL_FD

_IDLE_SECS = 900.0
_TICK_SECS = 5.0
_READ_SECS = 10.0
_FDS = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)")
_DONTNEED = 4


class _Server:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listener = socket.socket(socket.AF_UNIX)
        with short_path(directory) as path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}/{SOCKET}")
            self._listener.bind(f"{path}/{SOCKET}")
        self._listener.listen(socket.SOMAXCONN)  # who asks now waits for the imports
        self._guardians: set[int] = set()
        self._refusal = ""

    def load(self, trusted: list[str], preload: list[str]) -> None:
        """Imports the modules, or finds out why no process can be forked from this one."""
        try:
            for name in ("tfos.runtime.main", *trusted):
                importlib.import_module(name)
            # some of them know how to fork with the threads of their libraries
            known = _threads()
            for name in preload:
                importlib.import_module(name)
                new = _threads() - known
                if new:
                    self._refusal = (
                        f"importing {name!r}, which the app preloads, starts {len(new)} threads,"
                        " and what they do is lost in a fork"
                    )
                    return
            others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
            if others:
                self._refusal = f"what the strategy imports starts threads: {others}"
        except BaseException as error:  # the process will say it, as its own
            traceback.print_exc()
            self._refusal = f"{type(error).__name__}: {error}"
        gc.collect()
        gc.freeze()  # what is there now is the same for all: a collection would copy it
        with contextlib.suppress(OSError, ValueError):
            _release_file_pages()

    def serve(self) -> None:
        """Until the keeper is gone, or nothing has been asked for a while and nothing runs."""
        idle = 0.0
        while idle < _IDLE_SECS:
            ready = select.select([self._listener.fileno(), 0], [], [], _TICK_SECS)[0]
            self._reap()
            if 0 in ready:
                self._remove_directory()
                return
            if ready:
                connection, _ = self._listener.accept()
                with connection:
                    self._take(connection)
            idle = 0.0 if ready or self._guardians else idle + _TICK_SECS

    def _remove_directory(self) -> None:
        """Unless it has a new keeper by now, and a new server."""
        with contextlib.suppress(OSError), held(self._directory) as lock:
            if lock is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    def _reap(self) -> None:
        for pid in [*self._guardians]:
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._guardians.discard(pid)

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(_READ_SECS)
        fds: list[int] = []
        try:
            size, fds, _, _ = socket.recv_fds(connection, 4, _FDS)
            for fd in fds:
                os.set_inheritable(fd, False)
            if not size:
                return  # who only wanted to know whether we are there
            with connection.makefile("rb") as stream:
                order = json.loads(stream.read(int.from_bytes(size, "big")))
            if self._refusal:
                os.write(fds[-1], f"{self._refusal}\n".encode())
                return
            pid = _fork()
            if pid == 0:
                self._become_guardian(connection, order, fds)
            self._guardians.add(pid)
        except (OSError, ValueError) as error:  # who asked has gone
            print(f"an order was lost: {error}", file=sys.stderr)
        finally:
            for fd in fds:
                os.close(fd)

    def _become_guardian(
        self, connection: socket.socket, order: dict[str, Any], fds: list[int]
    ) -> NoReturn:
        try:
            os.setsid()
            self._listener.close()
            connection.close()
            leads, led = os.pipe()
            pid = _fork()
            if pid == 0:
                os.setsid()
                os.close(leads)
                os.write(led, b".")
                os.close(led)
                _become_role(order, fds)
            os.close(led)
            os.read(leads, 1)  # from here on its group is there, and can be ended
            status = fds[-1]
            with contextlib.suppress(OSError):  # who asked is gone: so will be the process
                os.write(status, b"%d\n" % pid)
            null = os.open(os.devnull, os.O_RDWR)
            for source, target in ((status, 0), (null, 1), (null, 2)):
                os.dup2(source, target)
            command = guardian(pid, order["owner"], order["born"], order["scratch"])
            os.execv(command[0], command)
        except BaseException:
            traceback.print_exc()
        os._exit(1)


def _release_file_pages() -> None:
    """Takes what is only a copy of files, libraries above all, out of this process's memory.

    It comes back from the page cache where it is used; whoever adds up resident memory, as YARN
    does, need not count 300 MB of it here that the import alone has touched. Only of mappings that
    cannot be written and have no page of our own: relocated ones are (proc(5), smaps; madvise(2)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    where: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            is_copy = "w" not in mapping[3] and mapping[4].startswith("/")
            where = (start, end - start) if is_copy else None
        elif where and line.startswith("Anonymous:") and line.split()[1] == "0":
            libc.madvise(ctypes.c_void_p(where[0]), ctypes.c_size_t(where[1]), _DONTNEED)


def _threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads. Those that are there are of libraries that mind forks, or
        # are refused
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _become_role(order: dict[str, Any], fds: list[int]) -> NoReturn:
    """The process of a role, as if it had been started by `python -m tfos.runtime.main`."""
    status = 1
    try:
        log, stdin, channel, guardians = fds
        for source, target in ((stdin, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for fd in (log, stdin, guardians):
            os.close(fd)
        os.set_inheritable(channel, True)
        os.environ.clear()
        os.environ.update({**order["env"], CHANNEL_FD: str(channel)})
        os.chdir(order["directory"])
        sys.path[:] = order["path"]
        importlib.invalidate_caches()
        sys.argv[:] = ["tfos.runtime.main", *order["argv"]]
        setproctitle(" ".join([sys.executable, "-m", *sys.argv]))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        faulthandler.enable()
        _forget_parent()
        from tfos.runtime.main import main

        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _forget_parent() -> None:
    """What would be the same in all processes, or be the parent's, becomes this one's own.

    Python's `random` and its names of temporary files do that by themselves; TensorFlow and Keras
    draw their first seeds after the fork.
    """
    random.seed()
    tempfile.tempdir = None
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def main(argv: list[str]) -> int:
    directory, modules = Path(argv[0]), json.loads(argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setproctitle(f"{sys.executable} -m tfos.runtime.fork_server {directory}")
    server = _Server(directory)
    server.load(*modules)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
