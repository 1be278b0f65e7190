"""Who is told how the training goes on; hearing nothing for long is taken for a hang."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Reports(Protocol):
    def progress(self, progress: dict[str, Any]) -> None:
        """How far the training is: phase, epoch, epochs, rows_done, rows, rows_per_sec, metrics."""

    def moved(self) -> None:
        """Something went on that has no other word."""

    def quiet(self) -> AbstractContextManager[None]:
        """The block may take long and report nothing."""

    def saved(self, stats: Mapping[str, float]) -> None:
        """A checkpoint is committed, or was found: see CheckpointStore.stats."""
