"""The rows of a store as they are at one moment, read while the store goes on to change them.

A copy of the process, made by fork(2), has the memory of that moment; the system copies a page only
when one of the two writes to it. The copy sends its rows through a pipe and ends. It calls kernels
and writes to the pipe, and nothing else: locks of other threads may have been held as it was made.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from setproctitle import setproctitle

from tfos.kv.store import Store
from tfos.kv.table import Rows, Table

_PIPE_BYTES = 1 << 20


class Moment:
    """Of `store`: rows with slots that were changed at their table's time or later.

    The moment is that at which the constructor is called. Raises OSError where the system cannot
    copy the process, e.g. for want of memory. close() is to be called in the end.

    facts: of the tables as they are at the moment, among them "since", that time. now: as
    Table.scan() has it.
    """

    def __init__(self, store: Store, facts: Callable[[Table], dict[str, Any]], now: int) -> None:
        self.tables = store.tables
        self._pipe, writable = _pipe()
        try:
            with contextlib.ExitStack() as held, warnings.catch_warnings():
                # Python's: a thread may hold a lock that the copy waits for. It takes none
                warnings.simplefilter("ignore", DeprecationWarning)
                for table in self.tables:
                    held.enter_context(table.held(now))
                self.facts = [facts(table) for table in self.tables]
                self._pid = os.fork()
            if not self._pid:
                _be_the_copy(self.tables, [f["since"] for f in self.facts], now, writable)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(writable)

    def rows(self) -> Iterator[tuple[int, int, Rows]]:
        """The number of the table, the stripe, and its rows; of all, in order. Called once.

        Raises RuntimeError where the copy has ended before.
        """
        with open(self._pipe, "rb", buffering=_PIPE_BYTES, closefd=False) as pipe:
            for number, table in enumerate(self.tables):
                for stripe in range(table.stripes):
                    count = int(self._read(pipe, np.empty(1, np.int64))[0])
                    keys, changed = np.empty(count, np.int64), np.empty(count, np.int64)
                    values = np.empty((count, table.floats), np.float32)
                    for array in (keys, changed, values):
                        self._read(pipe, array)
                    yield number, stripe, Rows(keys, changed, values)

    def _read(self, pipe: BinaryIO, array: np.ndarray) -> np.ndarray:
        if array.nbytes and pipe.readinto(array.data.cast("B")) != array.nbytes:  # type: ignore[attr-defined]
            raise RuntimeError(
                f"the copy of this server, process {self._pid}, which had the rows of a snapshot,"
                " ended before it had sent them; it needs memory for what changes meanwhile"
            )
        return array

    def close(self) -> None:
        """Ends the copy."""
        os.close(self._pipe)  # it cannot write any more
        os.waitpid(self._pid, 0)


def _pipe() -> tuple[int, int]:
    readable, writable = os.pipe()
    with contextlib.suppress(OSError):  # more than this user may have
        fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return readable, writable


def _be_the_copy(tables: list[Table], since: list[int], now: int, writable: int) -> None:
    """Does not return."""
    status = 1
    try:
        gc.disable()
        # nobody is to take it for the role, and no port is to be held when that dies
        setproctitle(f"{sys.executable} -m tfos.kv.moment")
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != writable:
                with contextlib.suppress(OSError):  # that of the listing
                    os.close(int(name))
        for table, begin in zip(tables, since, strict=True):
            for stripe in range(table.stripes):
                found = table.scan(stripe, slots=True, since=begin, now=now)
                for array in (np.array([len(found.keys)]), *found):
                    _write(writable, array.data.cast("B") if array.size else b"")
        status = 0
    except BrokenPipeError:
        pass  # nobody wants them any more
    finally:
        os._exit(status)


def _write(descriptor: int, data: Any) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]
