"""Feed: a DataFrame, and what to do with its values that no tensor holds as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos.errors import FeedError
from tfos.feeding.layout import Layout, layout_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Feed:
    """What pre_train() may return in place of a DataFrame, alone or in its dict.

    A field b of a struct a is named "a.b" here. docs/COLUMNS.md has the types and their tensors.

    fill: by column, the value that takes the place of a null, as the tensor has it: dates as
    days, timestamps as microseconds since the epoch; a list for an array, a dict for a map, a list
    or a pyspark.ml.linalg vector for a vector. Other nulls are errors.
    decimal: by decimal column, the dtype it is fed as: "float32", "float64", or "int64" for a
    decimal of scale 0. Keys and values of a map m are named "m.keys" and "m.values".
    sparse: the vector columns that become a tf.SparseTensor; the others become dense.
    """

    df: DataFrame
    fill: Mapping[str, Any] | None = None
    decimal: Mapping[str, str] | None = None
    sparse: Collection[str] | None = None

    def layout(self, name: str) -> Layout:
        """The columns that it becomes as feed `name`. Raises FeedError."""
        for option, value, kind in [
            ("fill", self.fill, Mapping),
            ("decimal", self.decimal, Mapping),
            ("sparse", self.sparse, Collection),
        ]:
            if value is not None and (not isinstance(value, kind) or isinstance(value, str)):
                wanted = "a list of column names" if kind is Collection else "a dict by column name"
                raise FeedError(f"{option}= of feed {name!r} is {value!r}: give {wanted}")
        schema = self.df.schema.jsonValue()
        return layout_of(name, schema, self.fill, self.decimal, self.sparse)


def quoted(name: str) -> str:
    """A column's name as Spark's expressions want it, whatever signs it has."""
    return "`" + name.replace("`", "``") + "`"
