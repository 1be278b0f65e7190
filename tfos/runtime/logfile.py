"""The log of a task: a file that its TF processes append to, and its copy in the lake."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from tfos.errors import LakeError
from tfos.lake.run_directory import RunDirectory
from tfos.runtime.background import Newest

# a remote file is written whole each time: the longer it is, the less often
_UPLOAD_SECS, _UPLOAD_SECS_PER_MB = 10.0, 10.0
_TAIL_BYTES = 65_536


class LogFile:
    """Not thread-safe.

    path: in the run directory. A local lake's file is written in place; of another lake the file
    lies in `scratch`, and is copied from time to time.
    local: the file on this machine. upload_secs: between two copies of a short one, at least.
    """

    def __init__(
        self, lake: RunDirectory, path: str, scratch: str, upload_secs: float | None = None
    ) -> None:
        self._lake = lake
        self._path = path
        self._upload_secs = _UPLOAD_SECS if upload_secs is None else upload_secs
        self._due = 0.0
        self._uploaded = 0
        self._uploading = threading.Lock()
        self._uploader: Newest | None = None
        self.local = Path(scratch, "log")
        if lake.is_local:
            self.local = Path(lake.path(path))
            self.local.parent.mkdir(parents=True, exist_ok=True)
        else:
            self.local.touch()
            self._uploader = Newest("log", lambda _: self._upload())

    @property
    def uri(self) -> str:
        """Where a person finds it."""
        return self._lake.uri(self._path)

    def tail(self, count: int) -> str:
        """Its last lines."""
        with open(self.local, "rb") as log:
            log.seek(max(0, self.local.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def upload_soon(self) -> None:
        """Copies what is new to the lake if it is time to, in another thread."""
        if self._uploader is not None and time.monotonic() > self._due:
            pause = self._upload_secs + _UPLOAD_SECS_PER_MB * self.local.stat().st_size / 1e6
            self._due = time.monotonic() + pause
            self._uploader.give(None)

    def close(self) -> None:
        """Copies the rest; nothing may be written any more. Blocks."""
        if self._uploader is not None:
            self._uploader.close()
            self._upload()

    def _upload(self) -> None:
        with self._uploading, contextlib.suppress(LakeError, OSError):  # a log is worth no run
            size = self.local.stat().st_size
            if size != self._uploaded:
                self._lake.upload(str(self.local), self._path)
                self._uploaded = size
