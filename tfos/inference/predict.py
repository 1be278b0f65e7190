"""predict(): an exported model applied to a DataFrame, as one of Spark's transformations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfos.compat.spark import own_python
from tfos.errors import UsageError
from tfos.inference.signature import SIGNATURE, Output, Signature

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType, StructType

# dtype -> the class in pyspark.sql.types
_SPARK_TYPES = {
    "int8": "ByteType",
    "int16": "ShortType",
    "int32": "IntegerType",
    "int64": "LongType",
    "float32": "FloatType",
    "float64": "DoubleType",
    "bool": "BooleanType",
    "string": "StringType",
}


def predict(
    df: DataFrame,
    model: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    batch_size: int = 4096,
    output: str = "prediction",
) -> DataFrame:
    """The DataFrame with one more column: what an exported model predicts for each row. Lazy.

    model: its URI, as ctx.export() returned it and result["model"] has it; any path that fsspec
    knows and that the executors see.
    columns: the DataFrame's column for an input of the model, where their names differ.
    batch_size: rows that the model is given at a time; the last batch of a partition is shorter.
    output: the new column's name. Its type is that of the model's output: a number for [batch] and
    for [batch, 1], an array for [batch, k], nested arrays beyond; for a model that returns a dict a
    struct with a field for each entry.

    Rows keep their partition, their order in it and all their columns. The DataFrame belongs to the
    model that lies there now: another one exported to the same place needs a new predict().

    Raises UsageError for a bad argument, LakeError when the model cannot be read, and FeedError
    for a column that is missing, or of a type that the model, or Python in Spark, does not take. A
    null, an array of another length than the model takes, and a value that the model refuses make
    the Spark job fail, with the partition, the row and the column in the message.
    """
    from tfos.feeding.convert import map_batches
    from tfos.inference.inputs import check_passable, input_layout
    from tfos.inference.worker import Job, predict_partition

    if batch_size < 1:
        raise UsageError(f"predict(batch_size={batch_size}): use at least 1")
    uri, identity, signature = _read(model)
    check_passable(df.schema)
    layout = input_layout(df.schema, signature, columns or {})
    schema = output_schema(df.schema, signature, output)
    job = Job(uri, identity, signature, layout, batch_size, output)
    with own_python(df.sparkSession):
        return map_batches(df, lambda batches: predict_partition(batches, job), schema)


def _read(model: str | os.PathLike[str]) -> tuple[str, str, Signature]:
    """The absolute URI of a model, the digest of its marker, and its signature."""
    from tfos.lake.committed import CommittedStorage, digest
    from tfos.lake.storage import absolute

    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(
            f"predict(model={model!r}): pass the URI of an exported model; a run has one in"
            ' result["model"] when its train() calls ctx.export(model)'
        )
    uri = absolute(os.fspath(model))
    lake = CommittedStorage(uri)
    marker = lake.committed("")
    if marker is None:
        raise UsageError(
            f"predict(model={uri!r}): no exported model lies there; pass what ctx.export()"
            ' returned, which is also result["model"] of the run'
        )
    if SIGNATURE not in marker["files"]:
        raise UsageError(
            f"predict(model={uri!r}): the model has no {SIGNATURE}: export it again with this tfos"
        )
    return uri, digest(marker), Signature.from_json(lake.read_json(SIGNATURE))


def output_schema(schema: StructType, signature: Signature, output: str) -> StructType:
    """The schema of a DataFrame with the new column. Raises UsageError."""
    from pyspark.sql.types import StructField, StructType

    check_is_new(output, schema.names)
    types = [_column_type(each) for each in signature.outputs]
    fields = zip([each.name for each in signature.outputs], types, strict=True)
    kind = (
        StructType([StructField(*field) for field in fields]) if signature.is_struct else types[0]
    )
    return StructType([*schema.fields, StructField(output, kind)])


def check_is_new(output: str, names: Sequence[str]) -> None:
    """Raises UsageError where a DataFrame has a column of this name already."""
    # as a rule Spark does not tell names apart by case
    if output.lower() in (name.lower() for name in names):
        raise UsageError(
            f"predict(output={output!r}): the DataFrame has a column of this name already; choose"
            f" another, or drop that one first: df.drop({output!r})"
        )


def _column_type(output: Output) -> DataType:
    from pyspark.sql import types

    if not output.shape or output.column_dtype not in _SPARK_TYPES:
        raise UsageError(
            f"output {output.name!r} of the model is {output.dtype} of shape {output.shape}, which"
            " no column holds: export a model whose outputs have a dimension for the batch, a known"
            f" rank, and one of the dtypes {', '.join(_SPARK_TYPES)}"
        )
    kind = getattr(types, _SPARK_TYPES[output.column_dtype])()
    for _ in range(output.rank):
        kind = types.ArrayType(kind)
    return kind
