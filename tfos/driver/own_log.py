"""What the driver writes, kept in the lake as well: where nobody reads its output as it comes.

In cluster mode the driver runs in a container, whose output stays on some machine of the cluster.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

from tfos.errors import LakeError
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory
from tfos.lake.storage import remove_local
from tfos.runtime.logfile import LogFile

_READ_BYTES = 65_536
# what the driver's children hold open ends with them, not with it
_END_SECS = 2.0
_TICK_SECS = 1.0
# somebody watches
_UPLOAD_SECS = 2.0
_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def kept(lake: RunDirectory) -> Iterator[None]:
    """All that this process, and its children, write in the block is in the driver's log, too.

    A lake that cannot take it leaves the output where it was.
    """
    scratch = tempfile.mkdtemp(prefix="tfos-driver-log-")
    try:
        log = LogFile(lake, DRIVER_LOG, scratch, _UPLOAD_SECS)
        if not lake.is_local and lake.exists(DRIVER_LOG):  # of the driver before this one
            log.local.write_bytes(lake.read(DRIVER_LOG))
    except (LakeError, OSError) as error:
        print(f"tfos: the driver's log is not in the lake: {error}", file=sys.stderr)
        remove_local(scratch)
        yield
        return
    streams = {number: os.dup(number) for number in (_STDOUT, _STDERR)}
    read_end, write_end = os.pipe()
    for number in streams:
        os.dup2(write_end, number)
    os.close(write_end)
    copier = threading.Thread(
        target=_copy, args=(read_end, streams[_STDOUT], log), name="tfos-driver-log", daemon=True
    )
    copier.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, stream in streams.items():
            os.dup2(stream, number)
        copier.join(_END_SECS)
        log.close()
        remove_local(scratch)


def _copy(source: int, output: int, log: LogFile) -> None:
    """Until the other end is closed, whatever cannot be written: who writes there would wait."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(log.local, "ab"))
        while True:
            if select.select([source], [], [], _TICK_SECS)[0]:
                data = os.read(source, _READ_BYTES)
                if not data:
                    return
                with contextlib.suppress(OSError):  # the JVM that reads it has ended
                    _write(output, data)
                try:
                    if file is not None:
                        file.write(data)
                        file.flush()
                except OSError:  # no space
                    file = None
            with contextlib.suppress(OSError):
                log.upload_soon()


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
