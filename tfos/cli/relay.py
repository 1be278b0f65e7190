"""What spark-submit writes, passed on as it comes: to a person, or to the log of the run."""

from __future__ import annotations

import os
import select
import selectors
import threading
import time
from collections.abc import Sequence

from tfos.cli.chatter import Filter, Piece
from tfos.cli.driver_log import DriverLog
from tfos.errors import LakeError

_READ_BYTES = 65_536
# how long a line that may become chatter is waited for
_HOLD_SECS = 0.2
_LOOK_SECS = 1.0
# how long the end of the streams is waited for when their writers should have ended
_END_SECS = 2.0


class Relay:
    """Reads two streams in a thread of its own.

    driver: descriptor for what the driver writes on stdout and stderr, which spark-submit writes on
    its stdout. jvm: for spark-submit's stderr. Both are for one child, and closed by begin().

    sink: descriptor on which a person reads. shows_all: chatter goes there as well as to the log.
    """

    def __init__(self, sink: int, log: DriverLog, shows_all: bool = False) -> None:
        self._sink: int | None = sink
        self._log: DriverLog | None = log
        self._shows_all = shows_all
        driver, self.driver = os.pipe()
        jvm, self.jvm = os.pipe()
        self._filters = {driver: Filter(is_jvm=False), jvm: Filter(is_jvm=True)}
        self._heard = dict.fromkeys(self._filters, 0.0)
        self._end: float | None = None
        self._thread = threading.Thread(target=self._run, name="tfos-relay", daemon=True)

    def begin(self) -> None:
        """To be called when the child has been started."""
        os.close(self.driver)
        os.close(self.jvm)
        self._thread.start()

    def close(self, shows_unplaced: bool = False) -> None:
        """Blocks until all is passed on; to be called when the child has ended.

        shows_unplaced: shows what of the chatter no run has for its log.
        """
        self._end = time.monotonic() + _END_SECS
        self._thread.join()
        if self._log is None:
            return
        try:
            self._log.look()
        except (OSError, LakeError) as error:
            self._give_up_log(error)
        else:
            if shows_unplaced:
                self._show(self._log.take_unplaced())
            self._log.close()

    def _run(self) -> None:
        try:
            self._read()
            self._flush(is_last=True)
        finally:  # should we fail, the child is not to wait for us
            for stream in self._filters:
                os.close(stream)

    def _read(self) -> None:
        """Blocks until both streams have ended, or should have."""
        with selectors.DefaultSelector() as selector:
            for stream in self._filters:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                end = self._end
                is_holding = any(one.is_holding for one in self._filters.values())
                ready = selector.select(_HOLD_SECS if is_holding or end else _LOOK_SECS)
                for key, _ in ready:
                    data = os.read(key.fd, _READ_BYTES)
                    self._heard[key.fd] = time.monotonic()
                    self._pass_on(data, self._filters[key.fd].feed(data))
                    if not data:
                        selector.unregister(key.fd)
                self._flush(is_last=False)
                if end and (not ready or time.monotonic() > end):
                    break  # a process that the child has left behind has them open

    def _flush(self, is_last: bool) -> None:
        """Passes on what has been held back for long."""
        for stream, one in self._filters.items():
            if one.is_holding and (is_last or time.monotonic() - self._heard[stream] >= _HOLD_SECS):
                self._pass_on(b"", one.flush())

    def _pass_on(self, data: bytes, pieces: Sequence[Piece]) -> None:
        if self._shows_all:
            self._show(data)
        for piece in pieces:
            if not piece.is_shown:
                self._hide(piece.data)
            elif not self._shows_all:
                self._show(piece.data)

    def _hide(self, data: bytes) -> None:
        if self._log is not None:
            try:
                self._log.write(data)
                return
            except (OSError, LakeError) as error:
                self._give_up_log(error)
        if not self._shows_all:
            self._show(data)

    def _give_up_log(self, error: Exception) -> None:
        """Shows what is in no log, and whatever is to come."""
        assert self._log is not None
        self._show(f"tfos: the log of Spark's messages cannot be written: {error}\n".encode())
        if not self._shows_all:
            self._show(self._log.take_unplaced())
        self._log = None

    def _show(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._sink is not None:
            try:
                rest = rest[os.write(self._sink, rest) :]
            except BlockingIOError:  # another program that has the terminal has set it so
                select.select([], [self._sink], [])
            except OSError:  # nobody reads any more, but the run goes on
                self._sink = None
