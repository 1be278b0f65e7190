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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfos.errors import LakeError
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.spec.times import TIMES

_LOOK_EVERY_SECS = 0.5


@dataclass(frozen=True)
class Watch:
    """What has been seen of a lease so far.

    secs: since the watch began. still_secs: since the lease changed last, or the watch began.
    has_changed: whether it has.
    """

    secs: float
    still_secs: float
    has_changed: bool


def is_free(
    seen: DriverLease | None, watch: Watch, mine: DriverLease, is_dead: bool = False
) -> bool | None:
    """Whether a run is without a living driver; None while that cannot be said. Pure.

    seen: the lease that is there. mine: the one that is to take its place. Of two drivers of one
    application of YARN the later one is in its right: YARN has started it since the other one is
    lost to it. A submission that is repeated waits for the driver before it, which may be ending.
    is_dead: whether the driver that left the lease is known to be gone.
    """
    if seen is None or is_dead or (seen.application and seen.application == mine.application):
        return True
    if watch.still_secs > TIMES.lease_watch_secs:
        return True
    may_be_ending = is_same(seen, mine.submission) and watch.secs <= TIMES.lease_ending_secs
    return False if watch.has_changed and not may_be_ending else None


def is_same(seen: DriverLease, submission: str) -> bool:
    """Whether the driver that left a lease is one of that submission."""
    return bool(submission) and seen.submission == submission


def refusal(lake: RunDirectory, seen: DriverLease | None, submission: str) -> LakeError:
    """What to say where another driver has the run. submission: of the one that is refused."""
    who = f", process {seen.pid} on host {seen.host}" if seen else ""
    what, another = f"run {lake.run_id}", "--run-id"
    if seen is not None and is_same(seen, submission):
        what, another = f"submission {submission} (run {lake.run_id})", "--submission"
    where = f"{lake.run_id} --lake {lake.url}"
    return LakeError(
        f"{what} has a driver that lives{who} (it renews its lease in {lake.url}): look at it with"
        f" `pl_submit status {where}`, wait for it to end, end it with `pl_submit kill {where}`, or"
        f" use another {another}"
    )


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

    def __init__(self, lake: RunDirectory, submission: str, application: str = "") -> None:
        """submission, application: as DriverLease has them."""
        self._lake = lake
        token = secrets.token_hex(8)
        self._mine = DriverLease(
            socket.gethostname(), this_machine(), os.getpid(), submission, token, 0, application
        )
        self._first, self._begun = lake.lease(), time.monotonic()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._taken = ""
        self._on_taken: Callable[[str], None] = lambda by: None
        self._on_cancelled: Callable[[Mapping[str, Any]], None] | None = None

    def take(self, tell: Callable[[str], None] = lambda line: None) -> None:
        """Blocks for what is left of the watch. Raises LakeError when another driver lives."""
        last, since, has_changed = self._first, self._begun, False
        while True:
            seen, now = self._lake.lease(), time.monotonic()
            if seen != last:
                if seen is not None and not has_changed and is_same(seen, self._mine.submission):
                    tell(
                        f"the driver before this one, process {seen.pid} on host {seen.host}, lives"
                        f" yet: it has {TIMES.lease_ending_secs:g} s to end"
                    )
                last, since, has_changed = seen, now, True
            watch = Watch(now - self._begun, now - since, has_changed)
            free = is_free(seen, watch, self._mine, is_dead(seen))
            if free is False:
                raise refusal(self._lake, seen, self._mine.submission)
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
                raise refusal(self._lake, seen, self._mine.submission)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        threading.Thread(target=self._listen, name="lease requests", daemon=True).start()

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
