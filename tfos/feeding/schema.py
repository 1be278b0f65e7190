"""The columns of a feed, which of them are dense, and the manifest. Pure.

Whether an array column is of one length is a fact of the data, not of the type: it is decided over
all rows of all feeds of the run that have the column, so that "train" and "eval" always agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfos.errors import FeedError


@dataclass(frozen=True)
class Column:
    """One column of a feed.

    dtype: TensorFlow's name of the element type.
    length: None for a scalar column; for an array column the length that all its rows share, or
    -1 when they differ; for a vector the number of its dimensions.
    inner: None but for arrays of arrays: the length that all inner arrays share, or -1. One is -1
    when the other is: such a column is ragged in both dimensions.
    sparse: a vector that becomes a tf.SparseTensor.
    """

    name: str
    dtype: str
    length: int | None = None
    inner: int | None = None
    sparse: bool = False

    @property
    def is_ragged(self) -> bool:
        return self.length == -1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row; -1 is a ragged dimension."""
        return tuple(size for size in (self.length, self.inner) if size is not None)


# fewer columns are read and passed on one by one: they take about as long as one of them does
_BLOCK_COLUMNS = 32


def blocks(columns: Sequence[Column]) -> list[list[int]]:
    """The columns, by number, that are read as one array [rows, columns of the block].

    Many scalar columns of one dtype are a block, as each array that is read, cut and passed on
    costs as much as many values do. All others are one for themselves. In the order of each
    block's first column.
    """
    scalars: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        if not column.shape and column.dtype != "string":
            scalars.setdefault(column.dtype, []).append(number)
    found = {of[0]: of for of in scalars.values() if len(of) >= _BLOCK_COLUMNS}
    inside = {number for of in found.values() for number in of}
    for number in range(len(columns)):
        if number not in inside:
            found[number] = [number]
    return [found[first] for first in sorted(found)]


def resolve_lengths(
    feeds: Mapping[str, tuple[Column, ...]],
    spans: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]],
) -> dict[str, tuple[Column, ...]]:
    """Decides which array columns are dense: those with one length above 0 in each dimension.

    spans: feed -> column -> (shortest, longest) array seen in that feed; for arrays of arrays this
    and the same of the inner arrays, where there are any.
    """
    seen: dict[str, list[set[int]]] = {}
    for columns in spans.values():
        for name, of_feed in columns.items():
            sizes = seen.setdefault(name, [set(), set()])
            for size, span in zip(sizes, of_feed, strict=False):
                size.update(span)

    def resolved(column: Column) -> Column:
        sizes = seen.get(column.name, [])[: len(column.shape)]
        if not sizes or any(len(size) != 1 or size == {0} for size in sizes):
            return column
        lengths = [next(iter(size)) for size in sizes]
        return replace(column, length=lengths[0], inner=lengths[1] if lengths[1:] else None)

    return {feed: tuple(map(resolved, columns)) for feed, columns in feeds.items()}


@dataclass(frozen=True)
class Shard:
    """One Arrow IPC file of a feed, by its path in the run directory."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A feed: its columns, and its shards in the order of the DataFrame's partitions.

    complete: whether these are all shards. Others are to come otherwise, and these stand in the
    order in which they came.
    arrival: of a feed on which training could begin before it was complete, the numbers of its
    shards in the order in which they came; see plan.EpochOrder.
    """

    feed: str
    columns: tuple[Column, ...]
    shards: tuple[Shard, ...]
    complete: bool = True
    arrival: tuple[int, ...] | None = None

    @property
    def as_they_came(self) -> tuple[Shard, ...] | None:
        """The shards in the order in which they came; None where nobody was waiting for them."""
        if not self.complete:
            return self.shards
        if self.arrival is None:
            return None
        return tuple(self.shards[number] for number in self.arrival)

    @functools.cached_property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @functools.cached_property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @functools.cached_property
    def _by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    def column(self, name: str) -> Column:
        """The column `name`. Raises FeedError that lists the columns there are."""
        if name in self._by_name:
            return self._by_name[name]
        raise FeedError(
            f"feed {self.feed!r} has no column {name!r}; it has {[c.name for c in self.columns]}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "feed": self.feed,
            "columns": [vars(column) for column in self.columns],
            "shards": [vars(shard) for shard in self.shards],
            "complete": self.complete,
            "arrival": self.arrival,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Manifest:
        return cls(
            record["feed"],
            tuple(Column(**column) for column in record["columns"]),
            tuple(Shard(**shard) for shard in record["shards"]),
            record.get("complete", True),
            None if record.get("arrival") is None else tuple(record["arrival"]),
        )
