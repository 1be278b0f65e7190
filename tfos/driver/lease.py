"""One driver for one run, where the registry does not see to it: a lease in the lake.

With the embedded ZooKeeper each driver has a registry of its own, in which nobody else claims the
run. So a driver keeps a file in the run directory and counts its beats there. One that comes later
watches for longer than a beat takes whether they go on: no clock is compared with another
machine's. One that ran on the same machine has a pid to ask for. A driver that comes to itself
again, and finds another one's file, ends. As often it looks whether it is asked to end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfos.errors import LakeError
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.spec.times import TIMES

_LOOK_EVERY_SECS = 0.5


def is_free(
    first: DriverLease | None,
    seen: DriverLease | None,
    secs: float,
    submission: str,
    is_dead: bool = False,
) -> bool | None:
    """Whether a run is without a living driver; None while that cannot be said. Pure.

    first: the lease when the watch began. seen: the one that is there `secs` later.
    submission: ours. Of two drivers of one submission the later one is in its right: whatever
    starts drivers again did so since the other one is lost to it. is_dead: whether the driver that
    left the lease is known to be gone.
    """
    if seen is None or is_dead or (submission and seen.submission == submission):
        return True
    if seen != first:
        return False
    return True if secs > TIMES.lease_watch_secs else None


def this_machine() -> str:
    """See DriverLease. Containers of one host may share its name, and not the numbers of pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_dead(lease: DriverLease | None) -> bool:
    """Whether the driver that left a lease ran here, and is gone. Not so where that is unknown."""
    if lease is None or not lease.machine or lease.machine != this_machine():
        return False
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, but it is there
        pass
    return False


class Lease:
    """The lease of this process on the run of `lake`. The watch for another one's begins here.

    Renewed in a thread of its own: a lake that hangs or fails holds up nobody, and only makes the
    lease look old.
    """

    def __init__(self, lake: RunDirectory, submission: str) -> None:
        self._lake = lake
        self._mine = DriverLease(
            socket.gethostname(), this_machine(), os.getpid(), submission, secrets.token_hex(8), 0
        )
        self._first, self._begun = lake.lease(), time.monotonic()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._taken = ""
        self._on_taken: Callable[[str], None] = lambda by: None
        self._on_cancelled: Callable[[Mapping[str, Any]], None] | None = None

    def take(self) -> None:
        """Blocks for what is left of the watch. Raises LakeError when another driver lives."""
        while True:
            seen = self._lake.lease()
            secs = time.monotonic() - self._begun
            free = is_free(self._first, seen, secs, self._mine.submission, is_dead(seen))
            if free is False:
                raise self._refusal(seen)
            if free:
                break
            time.sleep(_LOOK_EVERY_SECS)
        self._lake.write_lease(self._mine)
        with contextlib.suppress(LakeError):
            self._lake.remove_cancel_request()  # was for a driver before this one
        if seen is not None:  # somebody else may have watched the same one until now
            time.sleep(_LOOK_EVERY_SECS)
            seen = self._lake.lease()
            if seen != self._mine:
                raise self._refusal(seen)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        threading.Thread(target=self._listen, name="lease requests", daemon=True).start()

    def _refusal(self, seen: DriverLease | None) -> LakeError:
        who = f", process {seen.pid} on host {seen.host}" if seen else ""
        return LakeError(
            f"run {self._lake.run_id} has a driver that lives{who} (it renews its lease in"
            f" {self._lake.url}): wait for it to end, end it with `pl_submit kill`, or use another"
            " --run-id"
        )

    def when_taken(self, callback: Callable[[str], None]) -> None:
        """Calls `callback(whose it is now)` once another driver has taken the run over."""
        self._on_taken = callback
        if self._taken:
            callback(self._taken)

    def when_cancelled(self, callback: Callable[[Mapping[str, Any]], None] | None) -> None:
        """Calls `callback(request)` when the run is asked to end in the lake. None: no more."""
        self._on_cancelled = callback

    def is_lost(self) -> bool:
        """Whether another driver has the run by now, as far as the lake tells."""
        if self._thread is not None and not self._taken:
            with contextlib.suppress(LakeError):
                seen = self._lake.lease()
                return seen is not None and seen.token != self._mine.token
        return bool(self._taken)

    def release(self) -> None:
        """Removes it. Does not wait long for a lake that hangs; may be called without take()."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(TIMES.lease_secs)

    def _keep(self) -> None:
        while not self._taken and not self._over.wait(TIMES.lease_secs):
            with contextlib.suppress(LakeError):  # the next beat is another try
                self._beat()
        with contextlib.suppress(LakeError):
            seen = self._lake.lease()
            if seen is not None and seen.token == self._mine.token:
                self._lake.remove_lease()
                self._lake.remove_cancel_request()

    def _listen(self) -> None:
        """In a thread of its own: a request that cannot be read delays no beat."""
        while not self._taken and not self._over.wait(TIMES.lease_secs):
            request = self._request()
            if request is not None and self._on_cancelled is not None:
                self._on_cancelled(request)
                with contextlib.suppress(LakeError):
                    self._lake.remove_cancel_request()

    def _request(self) -> Mapping[str, Any] | None:
        try:
            return self._lake.cancel_request()
        except LakeError as error:
            is_denied = isinstance(error.__cause__, PermissionError)
            return {"by": "somebody, in a file that may not be read"} if is_denied else None

    def _beat(self) -> None:
        seen = self._lake.lease()
        if seen is not None and seen.token != self._mine.token:
            self._taken = f"process {seen.pid} on host {seen.host}"
            self._on_taken(self._taken)
            return
        self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
        self._lake.write_lease(self._mine)
