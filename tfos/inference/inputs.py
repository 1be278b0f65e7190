"""Which column of a DataFrame, or field of its structs, is which input of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tfos.errors import FeedError, UsageError
from tfos.feeding.feed import quoted
from tfos.feeding.layout import Layout, Source, layout_of
from tfos.feeding.schema import Column
from tfos.inference.signature import Signature

if TYPE_CHECKING:
    from pyspark.sql.types import DataType, StructType

_SQL = {
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "float32": "float",
    "float64": "double",
    "bool": "boolean",
}
_MAP_PARTS = (".keys", ".values")


def input_layout(schema: StructType, signature: Signature, columns: Mapping[str, str]) -> Layout:
    """How the inputs, in the signature's order, are made from a DataFrame of this schema.

    columns: where an input, or the struct or map it is a part of, has another name.
    Raises FeedError for a column that is missing or of a wrong type, UsageError for `columns`.
    """
    names = [column.name for column in signature.inputs]
    known = {part for name in names for part in _wholes(name)}
    for key in columns:
        if key not in known:
            raise UsageError(
                f"predict(columns=...) names {key!r}, but the model's inputs are {names}"
            )
    sources = []
    fields = _Fields(schema)
    for column in signature.inputs:
        name = column.name
        for key in _wholes(column.name):
            if key in columns:
                name = columns[key] + column.name[len(key) :]
        found = list(fields.find(name))
        if len(found) != 1:
            what = f"{len(found)} columns" if found else "no column"
            raise FeedError(
                f"the DataFrame has {what} {name!r}, which the model takes; rename one of"
                f" {schema.names}, or pass columns={{{column.name!r}: ...}}"
            )
        sources.append(replace(_source(name, *found[0], column), name=name))
    return Layout("predict", tuple(sources))


def check_passable(schema: StructType) -> None:
    """Raises FeedError for a column, also one that no model takes, that Spark gives no Python.

    All columns go through Python, and Arrow has nothing for Spark's intervals of months.
    """
    for field in schema.fields:
        text = field.dataType.simpleString()
        if re.search(r"\binterval (year|month)|\binterval(?! (day|hour|minute|second))\b", text):
            name = quoted(field.name)
            raise FeedError(
                f"column {field.name!r} has type {text}, which Spark cannot pass to predict(): drop"
                f" it, or cast it first, df.withColumn({field.name!r}, df[{name!r}].cast('string'))"
            )


def _wholes(name: str) -> Sequence[str]:
    """What `name` can be a part of, and itself: "a", "a.b" and "a.b.c" for "a.b.c"."""
    return [name[:at] for at, sign in enumerate(name) if sign == "."] + [name]


class _Fields:
    """The fields of a schema by their names: there may be thousands, and as many are looked for."""

    def __init__(self, schema: StructType) -> None:
        self._schema = schema
        self._named: dict[str, list[int]] = {}
        for index, field in enumerate(schema.fields):
            self._named.setdefault(field.name, []).append(index)

    def find(self, name: str) -> Iterator[tuple[tuple[int, ...], DataType]]:
        """Path and type of what is called `name`: "x", a field "a.x", or "m.keys", "m.values"."""
        for whole in _wholes(name):
            for index in self._named.get(whole, ()):
                kind, rest = self._schema.fields[index].dataType, name[len(whole) :]
                if not rest or (kind.typeName() == "map" and rest in _MAP_PARTS):
                    yield (index,), kind
                elif kind.typeName() == "struct":
                    for path, inner in _Fields(kind).find(rest[1:]):  # type: ignore[arg-type]
                        yield (index, *path), inner


def _source(name: str, path: tuple[int, ...], kind: DataType, column: Column) -> Source:
    """How the input `column` is made from what has type `kind`. Raises FeedError."""
    leaf = column.name
    for part in _MAP_PARTS if kind.typeName() == "map" else ():
        leaf = leaf.removesuffix(part)
    try:
        sources = layout_of(
            "predict",
            {"fields": [{"name": leaf, "type": kind.jsonValue()}]},
            decimal=dict.fromkeys(_decimals(leaf, kind), column.dtype),
            sparse=[leaf] if column.sparse else [],
        ).sources
    except FeedError:
        sources = ()
    for source in sources:
        if _kind(source.column) == _kind(column):
            return replace(source, path=path)
    wanted = _sql(column)
    expression = name if path[1:] else quoted(name)  # a field of a struct, or a column
    raise FeedError(
        f"column {name!r} has type {kind.simpleString()}, but the model's input {column.name!r} is"
        f" {wanted}: cast it first, df.withColumn({name!r}, df[{expression!r}].cast({wanted!r}))"
    )


def _kind(column: Column) -> tuple[str, str, int, bool]:
    return column.name, column.dtype, len(column.shape), column.sparse


def _decimals(name: str, kind: DataType) -> Iterator[str]:
    """The columns that are made of decimals in a column of this type."""
    if kind.typeName() == "array":
        yield from _decimals(name, kind.elementType)  # type: ignore[attr-defined]
    elif kind.typeName() == "map":
        yield from _decimals(f"{name}.keys", kind.keyType)  # type: ignore[attr-defined]
        yield from _decimals(f"{name}.values", kind.valueType)  # type: ignore[attr-defined]
    elif kind.typeName() == "decimal":
        yield name


def _sql(column: Column) -> str:
    """The Spark type that becomes the column most directly."""
    if column.sparse:
        return "vector"
    text = _SQL.get(column.dtype, column.dtype)
    for _ in column.shape:
        text = f"array<{text}>"
    return text
