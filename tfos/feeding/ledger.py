"""The ledger: how many rows of each feed each epoch has trained on. Pure.

Together with the position of a training loop in its epoch it is checkpoint data: restoring the
weights restores the ledger that belongs to them.
"""

from __future__ import annotations

from collections.abc import Mapping


class Ledger:
    """Rows trained on, by feed and epoch. Not thread-safe."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def add(self, feed: str, epoch: int, rows: int) -> None:
        """Counts `rows` more rows of `feed` in `epoch`, epochs counted from 0."""
        counts = self._rows.setdefault(feed, [])
        counts.extend([0] * (epoch + 1 - len(counts)))
        counts[epoch] += rows

    def as_json(self) -> dict[str, list[int]]:
        return {feed: list(counts) for feed, counts in self._rows.items()}

    def restore(self, record: Mapping[str, list[int]]) -> None:
        self._rows = {feed: list(counts) for feed, counts in record.items()}
