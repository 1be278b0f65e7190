"""Which column of a DataFrame, or field of its structs, is which input of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tfos.errors import FeedError, UsageError
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
    for key in columns:
        if not any(_is_part(name, key) for name in names):
            raise UsageError(
                f"predict(columns=...) names {key!r}, but the model's inputs are {names}"
            )
    sources = []
    for column in signature.inputs:
        name = column.name
        for key, other in columns.items():
            if _is_part(column.name, key):
                name = other + column.name[len(key) :]
        found = list(_find(name, schema))
        if len(found) != 1:
            what = f"{len(found)} columns" if found else "no column"
            raise FeedError(
                f"the DataFrame has {what} {name!r}, which the model takes; rename one of"
                f" {schema.names}, or pass columns={{{column.name!r}: ...}}"
            )
        sources.append(replace(_source(name, *found[0], column), name=name))
    return Layout("predict", tuple(sources))


def _is_part(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _find(
    name: str, schema: StructType, path: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], DataType]]:
    """Path and type of what is called `name`: "x", a field "a.x", or "m.keys" and "m.values"."""
    for index, field in enumerate(schema.fields):
        kind, rest = field.dataType, name[len(field.name) :]
        if name == field.name or (
            _is_part(name, field.name) and kind.typeName() == "map" and rest in _MAP_PARTS
        ):
            yield (*path, index), kind
        elif _is_part(name, field.name) and kind.typeName() == "struct":
            yield from _find(rest[1:], kind, (*path, index))  # type: ignore[arg-type]


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
    raise FeedError(
        f"column {name!r} has type {kind.simpleString()}, but the model's input {column.name!r} is"
        f" {wanted}: cast it first, df.withColumn({name!r}, df[{name!r}].cast({wanted!r}))"
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
