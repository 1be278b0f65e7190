"""Column types of a feed: what of Spark's types becomes which tensor. Pure.

    Spark type                              tensor
    tinyint smallint int bigint             int8 int16 int32 int64, [batch]
    float double                            float32 float64, [batch]
    boolean                                 bool, [batch]
    string                                  string (UTF-8), [batch]
    array of these, all of one length k     the element's dtype, [batch, k]
    array of these, of varying length       tf.RaggedTensor, [batch, None]

Whether an array column is of one length is a fact of the data, not of the type: it is decided over
all rows of all feeds of the run that have the column, so that "train" and "eval" always agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfos.errors import FeedError

_DTYPES = {
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    "string": "string",
}


@dataclass(frozen=True)
class Column:
    """One column of a feed.

    dtype: TensorFlow's name of the element type.
    length: None for a scalar column; for an array column the length that all its rows share, or
    -1 when they differ.
    """

    name: str
    dtype: str
    length: int | None = None

    @property
    def is_ragged(self) -> bool:
        return self.length == -1


def columns_of(feed: str, types: Iterable[tuple[str, str]]) -> tuple[Column, ...]:
    """The columns of a DataFrame from its (name, Spark simpleString type) pairs.

    Array columns are ragged until resolve_lengths() has seen the data. Raises FeedError.
    """
    columns: list[Column] = []
    for name, spark_type in types:
        element, length = spark_type, None
        if spark_type.startswith("array<"):
            element, length = spark_type[len("array<") : -1], -1
        if element not in _DTYPES:
            raise FeedError(
                f"column {name!r} of feed {feed!r} has type {spark_type}, which cannot be fed;"
                f" cast it in pre_train to one of {', '.join(_DTYPES)}, or an array of these"
            )
        if any(column.name == name for column in columns):
            raise FeedError(
                f"feed {feed!r} has two columns named {name!r}; rename one in pre_train"
            )
        columns.append(Column(name, _DTYPES[element], length))
    if not columns:
        raise FeedError(f"feed {feed!r} has no columns")
    return tuple(columns)


def resolve_lengths(
    feeds: Mapping[str, tuple[Column, ...]], lengths: Mapping[str, Mapping[str, tuple[int, int]]]
) -> dict[str, tuple[Column, ...]]:
    """Decides which array columns are dense.

    lengths: feed -> column -> (shortest, longest) array seen in that feed.
    """
    spans: dict[str, set[int]] = {}
    for columns in lengths.values():
        for name, span in columns.items():
            spans.setdefault(name, set()).update(span)

    def resolved(column: Column) -> Column:
        span = spans.get(column.name, set())
        if column.length is None or len(span) != 1 or span == {0}:
            return column
        return Column(column.name, column.dtype, next(iter(span)))

    return {feed: tuple(map(resolved, columns)) for feed, columns in feeds.items()}


@dataclass(frozen=True)
class Shard:
    """One Arrow IPC file of a feed, by its path in the run directory."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A complete feed: its columns, and its shards in the order of the DataFrame's partitions."""

    feed: str
    columns: tuple[Column, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def column(self, name: str) -> Column:
        """The column `name`. Raises FeedError that lists the columns there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise FeedError(
            f"feed {self.feed!r} has no column {name!r}; it has {[c.name for c in self.columns]}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "feed": self.feed,
            "columns": [vars(column) for column in self.columns],
            "shards": [vars(shard) for shard in self.shards],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Manifest:
        return cls(
            record["feed"],
            tuple(Column(**column) for column in record["columns"]),
            tuple(Shard(**shard) for shard in record["shards"]),
        )


def manifest_path(feed: str) -> str:
    return f"feed/{feed}/manifest.json"
