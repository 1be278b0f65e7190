"""What a process reads of its feeds is its progress: nobody sees the steps of a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfos.fault.reports import Reports
from tfos.feeding.ledger import Ledger
from tfos.feeding.plan import share
from tfos.feeding.reader import FeedReader, View

_REPORT_SECS = 0.5


class CountedReader:
    """Counts rows as they are read, and reports them. Thread-safe.

    TensorFlow reads ahead, so that the counts may be some batches ahead of the training.

    of: this process is number of[0] of the of[1] that read. reported: metrics, to be shown.
    """

    def __init__(
        self,
        reader: FeedReader,
        ledger: Ledger,
        reports: Reports,
        of: tuple[int, int],
        reported: Mapping[str, Any],
    ) -> None:
        self._reader, self._ledger, self._reports = reader, ledger, reports
        self._of, self._reported = of, reported
        self._lock = threading.Lock()
        self._ended = False
        self._done: dict[tuple[str, int], int] = {}
        self._told, self._since = time.monotonic(), 0

    def read(self, view: View, epoch: int, start: int, stop: int) -> list[np.ndarray]:
        """See FeedReader.read()."""
        rows = self._reader.read(view, epoch, start, stop)
        with self._lock:
            if not self._ended:
                self._count(view.feed, epoch, stop - start)
        return rows

    def _count(self, feed: str, epoch: int, rows: int) -> None:
        self._ledger.read(feed, epoch, rows)
        key = feed, epoch
        self._done[key] = self._done.get(key, 0) + rows
        self._since += rows
        took = time.monotonic() - self._told
        if took < _REPORT_SECS:
            return
        total = self._reader.manifest(feed).rows
        begin, end = share(total, *self._of)
        done = self._done[key]
        self._reports.progress(
            {
                "phase": "train",
                "epoch": epoch + 1,
                "epochs": 0,
                "rows_done": done,
                "rows": end - begin if done <= end - begin else total,  # of whole()
                "rows_per_sec": round(self._since / took),
                "metrics": {
                    name: value
                    for name, value in self._reported.items()
                    if isinstance(value, int | float)
                },
            }
        )
        self._told, self._since = time.monotonic(), 0

    def counts(self) -> Mapping[str, Any]:
        """The ledger as it is now."""
        with self._lock:
            return self._ledger.as_json()

    def end(self) -> None:
        """What is read from now on, ahead of nobody, does not count."""
        with self._lock:
            self._ended = True
