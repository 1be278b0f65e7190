"""The ledger: how many rows of each feed each epoch has trained on, or only read. Pure.

Together with the position of a training loop in its epoch it is checkpoint data: restoring the
weights restores the ledger that belongs to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Ledger:
    """Rows trained on, by feed and epoch, epochs counted from 0. Not thread-safe.

    What a `for` loop of the user's reads is counted apart: nobody knows whether it trains on the
    rows, adapts a layer to them, or counts them.
    """

    def __init__(self) -> None:
        self._read: dict[str, list[int]] = {}
        self._rows: dict[str, list[int]] = {}
        self._repeated: dict[str, list[int]] = {}
        self._due: dict[str, list[int | None]] = {}

    def add(self, feed: str, epoch: int, rows: int, due: int | None) -> None:
        """Counts `rows` more rows of `feed` in `epoch`, of the `due` ones of the whole epoch.

        due: None, for all rows of a feed that is still being written.
        """
        _add(self._rows, feed, epoch, rows)
        counts = self._due[feed] = _padded(self._due.get(feed, []), epoch + 1)
        counts[epoch] = None if due is None else max(counts[epoch] or 0, due)

    def repeat(self, feed: str, epoch: int, rows: int) -> None:
        """Counts `rows` rows of `feed` that were trained on once too often."""
        _add(self._repeated, feed, epoch, rows)

    def read(self, feed: str, epoch: int, rows: int) -> None:
        """Counts `rows` rows of `feed` that a loop of the user's was given."""
        _add(self._read, feed, epoch, rows)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """{feed: {"rows_due": [rows of each epoch], "rows_trained", "rows_repeated", "rows_read"}}.

        No rows are due in an epoch that was not begun, as those before fit's initial_epoch.
        None: all rows of the feed, in an epoch that has not seen its end.
        """
        return {
            feed: {
                "rows_due": list(self._due.get(feed, [])),
                "rows_trained": list(self._rows.get(feed, [])),
                "rows_repeated": _padded(
                    self._repeated.get(feed, []), len(self._rows.get(feed, []))
                ),
                "rows_read": list(self._read.get(feed, [])),
            }
            for feed in sorted(self._rows.keys() | self._read.keys())
        }

    def restore(self, record: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = {feed: list(counts["rows_trained"]) for feed, counts in record.items()}
        self._repeated = {feed: list(counts["rows_repeated"]) for feed, counts in record.items()}
        self._due = {feed: list(counts["rows_due"]) for feed, counts in record.items()}
        self._read = {feed: list(counts["rows_read"]) for feed, counts in record.items()}


def accounting(record: Mapping[str, Any], rows: int) -> dict[str, list[int]]:
    """What result.json says of a feed of so many rows, from the ledger's record of it.

    rows_missed: rows of each epoch that were due and not trained on at all. rows_read: rows that
    a loop of the user's was given, by how often it had gone through the dataset.
    """
    trained = record.get("rows_trained", [])
    due = [rows if count is None else count for count in record.get("rows_due", [])]
    return {
        "rows_trained": list(trained),
        "rows_repeated": list(record.get("rows_repeated", [])),
        "rows_missed": [max(0, wanted - n) for wanted, n in zip(due, trained, strict=True)],
        "rows_read": list(record.get("rows_read", [])),
    }


def _padded(counts: Sequence[Any], length: int) -> list[Any]:
    return [*counts, *[0] * (length - len(counts))]


def _add(table: dict[str, list[int]], feed: str, epoch: int, rows: int) -> None:
    counts = table[feed] = _padded(table.get(feed, []), epoch + 1)
    counts[epoch] += rows
