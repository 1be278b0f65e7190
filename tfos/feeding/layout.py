"""Which columns of a feed a DataFrame becomes, from its schema and what the user declared. Pure.

Structs are flattened into columns "a.b", a map m becomes the columns "m.keys" and "m.values".
docs/COLUMNS.md has the table of all types.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from tfos.errors import FeedError
from tfos.feeding.schema import Column

# by Spark's names in a schema's JSON, which SQL calls otherwise: see _sql()
_DTYPES = {
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    "string": "string",
    "binary": "string",
    "date": "int64",
    "timestamp": "int64",
    "timestamp_ntz": "int64",
}
_SQL = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint"}
_TEXT = re.compile(r"string\b|(var)?char\b")
_DECIMAL = re.compile(r"decimal\((\d+), ?(-?\d+)\)")
_DECIMAL_DTYPES = ("float32", "float64", "int64")
_VECTOR = "org.apache.spark.ml.linalg.VectorUDT"
_INT_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_MAX_DEPTH = 2


@dataclass(frozen=True)
class Source:
    """Where one column of a feed comes from.

    column: as it is before the data is seen: arrays and vectors have length -1.
    name: the DataFrame's column, or the field "a.b" of a struct; what `fill` calls it.
    path: index of the DataFrame's column, then those of the struct fields in it.
    part: what of it becomes the column.
    fill: what takes the place of a null, as Arrow's canonical type has it; None: nulls are errors.
    """

    column: Column
    name: str
    path: tuple[int, ...]
    part: Literal["whole", "keys", "values", "vector"] = "whole"
    fill: Any = None


@dataclass(frozen=True)
class Layout:
    """The columns that the DataFrame of one feed becomes, in order."""

    feed: str
    sources: tuple[Source, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(source.column for source in self.sources)


def layout_of(
    feed: str,
    schema: Mapping[str, Any],
    fill: Mapping[str, Any] | None = None,
    decimal: Mapping[str, str] | None = None,
    sparse: Collection[str] | None = None,
) -> Layout:
    """The layout of a DataFrame whose `schema.jsonValue()` is `schema`.

    fill, decimal, sparse: as tfos.Feed has them.
    Raises FeedError for a type that cannot be fed, two columns of one name, and a declaration that
    fits no column.
    """
    builder = _Builder(feed, fill or {}, decimal or {}, sparse or ())
    leaves = list(_leaves(schema["fields"]))
    sources = [source for leaf in leaves for source in builder.sources(*leaf)]
    counts = Counter(source.column.name for source in sources)
    for name, count in counts.items():
        if count > 1:
            raise FeedError(
                f"feed {feed!r} has {count} columns named {name!r}; rename or drop all but one in"
                " pre_train"
            )
    if not sources:
        raise FeedError(f"feed {feed!r} has no columns")
    builder.check_all_used([name for name, _, _ in leaves])
    return Layout(feed, tuple(sources))


def _leaves(
    fields: Sequence[Mapping[str, Any]], prefix: str = "", path: tuple[int, ...] = ()
) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Name, path and type of all that is no struct."""
    for index, field in enumerate(fields):
        name, kind = prefix + field["name"], field["type"]
        if _kind(kind) == "struct":
            yield from _leaves(kind["fields"], f"{name}.", (*path, index))
        else:
            yield name, (*path, index), kind


class _Builder:
    """Makes the sources of one feed, and keeps count of the declarations that were of use."""

    def __init__(
        self,
        feed: str,
        fill: Mapping[str, Any],
        decimal: Mapping[str, str],
        sparse: Collection[str],
    ) -> None:
        self._feed = feed
        self._fill, self._decimal, self._sparse = fill, decimal, sparse
        self._decimals: list[str] = []
        self._vectors: list[str] = []

    def sources(self, name: str, path: tuple[int, ...], kind: Any) -> list[Source]:
        if _kind(kind) == "map":
            return self._map(name, path, kind)
        if _kind(kind) == "udt" and kind.get("class") == _VECTOR:
            return [self._vector(name, path)]
        column = self._column(name, kind, kind)
        fill = self._fill.get(name)
        depth = len(column.shape)
        if fill is not None and not _fits(fill, column.dtype, depth):
            item = "a str or bytes" if column.dtype == "string" else f"a value of {column.dtype}"
            lists = ["", "a list, each item of it ", "a list of lists, each item of these "]
            raise self._bad_fill(name, fill, lists[depth] + item)
        return [Source(column, name, path, "whole", fill)]

    def _column(self, name: str, kind: Any, whole: Any, depth: int = 0) -> Column:
        """The column of a scalar type, or of arrays of it; `whole` is the type for messages."""
        while _kind(kind) == "array":
            kind, depth = kind["elementType"], depth + 1
        dtype = self._decimal_dtype(name, kind) if _DECIMAL.match(_kind(kind)) else None
        dtype = dtype or _DTYPES.get("string" if _TEXT.match(_kind(kind)) else _kind(kind))
        if dtype is None or depth > _MAX_DEPTH:
            allowed = ", ".join(_SQL.get(name, name) for name in _DTYPES)
            raise FeedError(
                f"column {name!r} of feed {self._feed!r} has type {_sql(whole)}, which cannot be"
                f" fed; drop it in pre_train, or cast it to one of {allowed}, an array of these, or"
                " an array of arrays of these"
            )
        return Column(name, dtype, -1 if depth else None, -1 if depth > 1 else None)

    def _decimal_dtype(self, name: str, kind: str) -> str:
        self._decimals.append(name)
        match = _DECIMAL.match(kind)
        assert match
        exact = int(match[2]) == 0
        allowed = _DECIMAL_DTYPES if exact else _DECIMAL_DTYPES[:2]
        where = f"column {name!r} of feed {self._feed!r} has type {kind}"
        if name not in self._decimal:
            raise FeedError(
                f"{where}, which no tensor holds: declare what it becomes, e.g."
                f" tfos.Feed(df, decimal={{{name!r}: 'float64'}}) in pre_train; one of"
                f" {', '.join(allowed)}"
            )
        dtype = self._decimal[name]
        if dtype not in allowed:
            why = "; int64 is for decimals of scale 0" if dtype == "int64" else ""
            raise FeedError(f"{where}, and decimal= makes it {dtype!r}: use {_or(allowed)}{why}")
        return dtype

    def _map(self, name: str, path: tuple[int, ...], kind: Mapping[str, Any]) -> list[Source]:
        keys = self._column(f"{name}.keys", kind["keyType"], kind, 1)
        values = self._column(f"{name}.values", kind["valueType"], kind, 1)
        fill = self._fill.get(name)
        if fill is None:
            return [Source(keys, name, path, "keys"), Source(values, name, path, "values")]
        if not isinstance(fill, Mapping) or not all(
            _fits(list(part), column.dtype, len(column.shape))
            for part, column in [(fill, keys), (fill.values(), values)]
        ):
            raise self._bad_fill(name, fill, f"a dict from {keys.dtype} to {values.dtype}")
        return [
            Source(keys, name, path, "keys", list(fill)),
            Source(values, name, path, "values", list(fill.values())),
        ]

    def _vector(self, name: str, path: tuple[int, ...]) -> Source:
        self._vectors.append(name)
        column = Column(name, "float64", -1, sparse=name in self._sparse)
        fill = self._fill.get(name)
        if fill is not None and hasattr(fill, "indices"):  # pyspark.ml.linalg.SparseVector
            indices, values = list(map(int, fill.indices)), list(map(float, fill.values))
            fill = {"type": 0, "size": int(fill.size), "indices": indices, "values": values}
        elif fill is not None:
            try:
                fill = {"type": 1, "values": [float(value) for value in fill]}
            except (TypeError, ValueError):
                allowed = "a list of numbers, or a vector of pyspark.ml.linalg"
                raise self._bad_fill(name, fill, allowed) from None
        return Source(column, name, path, "vector", fill)

    def _bad_fill(self, name: str, fill: Any, allowed: str) -> FeedError:
        return FeedError(
            f"column {name!r} of feed {self._feed!r} cannot be filled with {fill!r}: give"
            f" {allowed}, as its tensor has it (docs/COLUMNS.md)"
        )

    def check_all_used(self, names: list[str]) -> None:
        """Raises FeedError for a declaration about a column that is not there, or of other type."""
        for option, declared, known, what in [
            ("fill", self._fill, names, "column"),
            ("decimal", self._decimal, self._decimals, "decimal column"),
            ("sparse", self._sparse, self._vectors, "vector column"),
        ]:
            known_names = set(known)
            for name in declared:
                if name not in known_names:
                    raise FeedError(
                        f"{option}= of feed {self._feed!r} names {name!r}, but the feed has no"
                        f" {what} of that name; it has {known}"
                    )
        for name, value in self._fill.items():
            if value is None:
                raise self._bad_fill(name, value, "a value")


def _fits(value: Any, dtype: str, depth: int) -> bool:
    """Whether a tensor of `dtype` holds the value, a list nested `depth` times."""
    if depth:
        return isinstance(value, (list, tuple)) and all(_fits(v, dtype, depth - 1) for v in value)
    if dtype == "string":
        return isinstance(value, (str, bytes))
    if dtype == "bool" or isinstance(value, bool):
        return dtype == "bool" and isinstance(value, bool)
    if dtype in _INT_BITS:
        limit = 1 << (_INT_BITS[dtype] - 1)
        return isinstance(value, Integral) and -limit <= int(value) < limit
    return isinstance(value, Real)


def _kind(kind: Any) -> str:
    return str(kind if isinstance(kind, str) else kind["type"])


def _sql(kind: Any) -> str:
    """The type as Spark's simpleString has it."""
    if isinstance(kind, str):
        return _SQL.get(kind, kind)
    if kind["type"] == "array":
        return f"array<{_sql(kind['elementType'])}>"
    if kind["type"] == "map":
        return f"map<{_sql(kind['keyType'])},{_sql(kind['valueType'])}>"
    if kind["type"] == "struct":
        fields = (f"{field['name']}:{_sql(field['type'])}" for field in kind["fields"])
        return f"struct<{','.join(fields)}>"
    return str(kind.get("class") or kind.get("pyClass"))


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
