"""The process of a role: a child of a supervisor.

    python -m tfos.runtime.main TASK RUN_ID STRATEGY [MODULE...]

It imports its strategy's backend at once, and the modules that the app preloads, and then waits, so
that the slow import overlaps with the other roles' coming up. Forked from the executor's fork
server it has them already. What it and the supervisor say to each other is in
tfos.runtime.protocol.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from tfos.fault.failures import FailureKind
from tfos.runtime.backend import Backend, Trained, load
from tfos.runtime.host import Host
from tfos.runtime.preemption import Preemption
from tfos.runtime.protocol import (
    CHANNEL_FD,
    STACKS_SIGNAL,
    Alive,
    Failed,
    Message,
    Outcome,
    SaveSoon,
    from_line,
    to_line,
)
from tfos.spec.roles import Task
from tfos.spec.topology import find

_ALIVE_SECS = 1.0


class Channel:
    """The way back to the supervisor, and what it asks for. send() is thread-safe."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lock = threading.Lock()
        self._preemption = Preemption(self.send)
        self._save: Callable[[], Any] = lambda: None

    def send(self, message: Message) -> None:
        with self._lock:
            self._file.write(to_line(message))

    def on_demand(self, save: Callable[[], Callable[[], bool]]) -> None:
        self._save = save

    def on_sigterm(self, save: Callable[[], Callable[[], bool]]) -> None:
        self._preemption.on_sigterm = save

    def take_sigterm(self) -> None:
        self._preemption.listen()

    def stay_alive(self) -> None:
        while True:
            self.send(Alive())
            time.sleep(_ALIVE_SECS)

    def obey(self) -> None:
        """Does what the supervisor says on stdin, after the order."""
        for line in sys.stdin.buffer:
            if isinstance(from_line(line), SaveSoon):
                self._save()


def main() -> int:
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    channel = Channel(int(os.environ.pop(CHANNEL_FD)))
    threading.Thread(target=channel.stay_alive, daemon=True).start()
    backend: Backend | None = None
    try:
        role = Task.parse(sys.argv[1]).role
        backend = load(find(sys.argv[3]).backend_of(role))
        backend.preload(role)
        for module in sys.argv[4:]:
            importlib.import_module(module)
        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        host = Host(from_line(line), channel)
        threading.Thread(target=channel.obey, daemon=True).start()
        channel.send(Outcome(_outcome(host, backend.run(host))))
        _leave(0)
    except BaseException as error:
        message = f"{type(error).__name__}: {error}".strip()
        kind = FailureKind.EXCEPTION if backend is None else backend.failure_kind(error)
        try:
            channel.send(Failed(kind, message, traceback.format_exc()))
            traceback.print_exc()
        finally:  # whether the log lies on a full disk, too, or the supervisor is gone
            _leave(1)
    return 0


def _leave(status: int) -> NoReturn:
    """Ends the process at once.

    Threads that user code or a framework left behind may wait for ever for servers that are going
    away; Python would wait for them.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _outcome(host: Host, trained: Trained) -> dict[str, Any]:
    """What goes into the result. Raises ValueError, or TypeError for what is not JSON-able."""
    return {
        "metrics": trained.plain_metrics(),
        "model": trained.model,
        "feeds": host.ledger.as_json(),
        "checkpoints": host.reports.stats,
    }


if __name__ == "__main__":
    sys.exit(main())
