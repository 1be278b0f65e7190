"""What a SIGTERM does to a role's process: a while to save a checkpoint, then the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from tfos.fault.failures import FailureKind
from tfos.runtime.protocol import Failed

# how long a process that got SIGTERM stays to let the chief save a checkpoint
_STAY_SECS = 20.0


class Preemption:
    """Made in the main thread. A thread of its own waits for the signal, since the main thread may
    be inside a framework, where Python's handlers do not run.

    send: takes the process's last words.
    on_sigterm: what is done first; what it returns is asked whether a checkpoint is saved, until it
    says yes or the time is up. Both may block, or raise: the process ends in time all the same. A
    process that user code forks is to end at a SIGTERM as any other, and not to wake this one.
    """

    def __init__(self, send: Callable[[Failed], None]) -> None:
        self._send = send
        self.on_sigterm: Callable[[], Callable[[], bool]] = lambda: lambda: True
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self.listen()
        os.register_at_fork(after_in_child=_forget_signals)
        threading.Thread(target=self._wait, args=(read_end,), daemon=True).start()

    def listen(self) -> None:
        """Takes the signal over, from a framework that has taken it, too; in the main thread."""
        signal.signal(signal.SIGTERM, lambda signum, frame: None)

    def _wait(self, read_end: int) -> NoReturn:
        while os.read(read_end, 1) != bytes([signal.SIGTERM]):
            pass
        saving = threading.Thread(target=self._save, daemon=True)
        saving.start()
        # no longer, whatever the lake does: who sent the signal does not wait either
        saving.join(_STAY_SECS)
        try:
            self._send(Failed(FailureKind.PREEMPTED, "got SIGTERM"))
        finally:
            os._exit(128 + signal.SIGTERM)

    def _save(self) -> None:
        is_saved = self.on_sigterm()
        while not is_saved():
            time.sleep(0.05)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
