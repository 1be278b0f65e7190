"""What is read while a driver is on a cluster: what spark-submit says, and the driver's own log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from tfos.cli.application import address_in, diagnostics_in, name_in, phase_in
from tfos.cli.chatter import Filter
from tfos.client.logs import Tail
from tfos.errors import LakeError
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory

_LOOK_SECS = 1.0
_READ_BYTES = 65_536
_KEPT_LINES = 200
# how long a pod may take to start before it is told of, and again
_PENDING_SECS = 30.0
# Kubernetes's words for pods that run no more
_ENDED = ("Succeeded", "Failed")


class Submitted:
    """What spark-submit writes, read in a thread until it ends.

    stream: the descriptor for it; for one child, and closed by begin().
    told: called with the application's name, and then with its address, as (what, value); and as
    long as a driver's pod does not start.
    """

    def __init__(self, shows_all: bool, told: Callable[[str, str], None]) -> None:
        self._source, self.stream = os.pipe()
        self._shows_all = shows_all
        self._told = told
        self._filter = Filter(is_jvm=True)
        self._lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._rest = b""
        self.application = ""
        # what YARN says of its end
        self.diagnostics = ""
        self._address = ""
        self._phase = ""
        self._pending: float | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    @property
    def pod_has_ended(self) -> bool:
        """Whether the driver's pod was seen to end, and no driver of ours is there any more."""
        return self._phase in _ENDED

    def begin(self) -> None:
        """To be called when the child has been started."""
        os.close(self.stream)
        self._thread.start()

    def close(self) -> bytes:
        """To be called when the child has ended; returns what it said beyond chatter."""
        self._thread.join(_LOOK_SECS)
        return b"".join([*self._lines, self._rest])

    def _read(self) -> None:
        begun = b""
        while data := os.read(self._source, _READ_BYTES):
            if self._shows_all:
                show(data)
            *lines, begun = (begun + data).split(b"\n")
            for line in lines:
                self._search(line)
            for piece in self._filter.feed(data):
                if piece.is_shown:
                    self._keep(piece.data)
        for piece in self._filter.flush():
            self._keep(piece.data)
        os.close(self._source)

    def _keep(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(line + b"\n" for line in lines)

    def _search(self, line: bytes) -> None:
        self.diagnostics = diagnostics_in(line) or self.diagnostics
        if not self.application and (name := name_in(line)):
            self.application = name
            self._told("application", name)
        if not self._address and (address := address_in(line)):
            self._address = address
            self._told("tracking URL", address)
        if phase := phase_in(line):
            self._note_phase(phase)

    def _note_phase(self, phase: str) -> None:
        """Of the driver's pod, which waits for ever for what there is not."""
        self._phase = phase
        now = time.monotonic()
        if phase != "Pending":
            self._pending = None
        elif self._pending is None:
            self._pending = now
        elif now - self._pending > _PENDING_SECS:
            self._pending = now
            namespace, _, pod = self.application.partition(":")
            command = f"kubectl describe pod {pod} -n {namespace}"
            self._told("the driver's pod waits to be started; it says why", command)


class DriverOutput:
    """The driver's log in the lake, shown as it grows.

    has_come: whether there was anything to show.
    """

    has_come = False

    def __init__(self, lake: RunDirectory, shows_all: bool) -> None:
        self._lake = lake
        self._shows_all = shows_all
        self._filter = Filter(is_jvm=False)
        self._tail = Tail(lake, DRIVER_LOG)
        self._due = 0.0
        self._warned = False

    def skip(self) -> None:
        """Passes over what is there: of a run that is continued."""
        try:
            if self._lake.exists(DRIVER_LOG):
                while self._tail.read():
                    pass
        except LakeError as error:
            self._warn(error)

    def look(self, is_last: bool = False) -> None:
        """Shows what has come since, if it is time to look."""
        if not is_last and time.monotonic() < self._due:
            return
        try:
            if self._lake.exists(DRIVER_LOG):
                while data := self._tail.read():
                    self.has_come = True
                    self._show(data)
        except LakeError as error:
            self._warn(error)
        if is_last:
            for piece in self._filter.flush():
                show(piece.data)
        self._due = time.monotonic() + _LOOK_SECS

    def _show(self, data: bytes) -> None:
        for piece in self._filter.feed(data):
            if piece.is_shown or self._shows_all:
                show(piece.data)

    def _warn(self, error: LakeError) -> None:
        if not self._warned:
            self._warned = True
            print(f"tfos: the driver cannot be followed from here: {error}", file=sys.stderr)


def show(data: bytes) -> None:
    """On this process's stderr, whole."""
    sys.stderr.buffer.write(data)
    sys.stderr.flush()
