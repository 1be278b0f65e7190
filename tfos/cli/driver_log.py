"""The log of what is not shown, in the directory of the run that the driver is at."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import BinaryIO

from tfos.lake.run_directory import DRIVER_LOG, RunDirectory
from tfos.runtime.logfile import LogFile


class DriverLog:
    """Takes bytes from the begin, and puts them where they belong as soon as that is known.

    An app may make several runs, one after the other: what is written goes to the newest. Not
    thread-safe.

    told: the file in which the driver tells of its run; see tfos.spec.result.tell_run().
    scratch: a directory for copies, to be removed by the caller.
    """

    def __init__(self, told: Path, scratch: str) -> None:
        self._told = told
        self._scratch = scratch
        self._run: str | None = None
        self._log: LogFile | None = None
        self._file: BinaryIO = (
            io.BytesIO()
        )  # until the run is known; there is little to say by then

    def write(self, data: bytes) -> None:
        """Raises OSError or LakeError; then take_unplaced() has what is in no run's log."""
        self.look()
        _write(self._file, data)
        if self._log is not None:
            self._log.upload_soon()

    def look(self) -> None:
        """Asks whether the driver has told of a run since. Raises as write() does."""
        try:
            run = self._told.read_text()
        except FileNotFoundError:
            return
        if run == self._run:
            return
        lake = RunDirectory(**json.loads(run))
        log = LogFile(lake, DRIVER_LOG, tempfile.mkdtemp(dir=self._scratch))
        if not lake.is_local and lake.exists(DRIVER_LOG):  # a driver before ours had it
            log.local.write_bytes(lake.read(DRIVER_LOG))
        file = open(log.local, "ab", buffering=0)  # noqa: SIM115
        _write(file, self.take_unplaced())
        self.close()
        self._run, self._log, self._file = run, log, file

    def take_unplaced(self) -> bytes:
        """What was written and has no run."""
        if self._log is not None:
            return b""
        self._file.seek(0)
        data = self._file.read()
        self._file.seek(0)
        self._file.truncate()
        return data

    def close(self) -> None:
        """Blocks until the lake has all that a run has."""
        self._file.close()
        if self._log is not None:
            self._log.close()


def _write(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
