"""predict() in a Spark task: one partition through the model, batch by batch.

A Python worker loads a model once and keeps it for the tasks to come. It is kept under the digest
of its COMMIT marker, so that another model at the same place is never taken for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tfos.errors import FeedError, LakeError
from tfos.feeding.convert import canonical, components, inspect, to_numpy
from tfos.feeding.layout import Layout
from tfos.feeding.schema import Column
from tfos.inference.signature import KERAS_FILE, Output, Signature, input_names
from tfos.lake.committed import CommittedStorage, digest

# a pipeline may have several, and a cross-validation has a new one for each fit
_MODELS_KEPT = 4


@dataclass(frozen=True)
class Job:
    """What a Spark task needs to know. Picklable.

    identity: digest() of the model's marker.
    layout: how the model's inputs, in the signature's order, are made from the DataFrame's columns.
    """

    uri: str
    identity: str
    signature: Signature
    layout: Layout
    batch_size: int
    output: str


def predict_partition(batches: Iterable[pa.RecordBatch], job: Job) -> Iterator[pa.RecordBatch]:
    """The rows of a partition with their predictions. A partition without rows loads no model."""
    from pyspark import TaskContext

    context = TaskContext.get()
    partition = context.partitionId() if context else 0
    row = 0
    for batch in rebatch(batches, job.batch_size):
        where = _Where(partition, row)
        outputs = _apply(job, _tensors(batch, job, where), where)
        column = _output_column(outputs, job.signature, batch.num_rows)
        field = pa.field(job.output, column.type)
        yield pa.RecordBatch.from_arrays(
            [*batch.columns, column], schema=batch.schema.append(field)
        )
        row += batch.num_rows


def rebatch(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `size`; the last one may be shorter, none is empty."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + batch.num_rows >= size:
            yield _joined([*held, batch.slice(0, size - count)])
            batch = batch.slice(size - count)
            held, count = [], 0
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield _joined(held)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    arrays = [pa.concat_arrays(parts) for parts in zip(*(b.columns for b in batches), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=batches[0].schema)


@dataclass(frozen=True)
class _Where:
    """A batch's partition, and the number of its first row in it, from 0."""

    partition: int
    first: int

    def row(self, index: int) -> str:
        return f"row {self.first + index} of partition {self.partition}, counted from 0"


def _tensors(batch: pa.RecordBatch, job: Job, where: _Where) -> dict[str, np.ndarray]:
    """The arrays that the serving signature takes, by name. Raises FeedError for a bad row."""
    inputs = canonical(batch, job.layout)
    facts = inspect(inputs, job.layout)
    found: dict[str, np.ndarray] = {}
    names = input_names(job.signature.inputs)
    for index, column in enumerate(job.signature.inputs):
        array = inputs.column(index)
        spans = zip(column.shape, facts.spans.get(column.name, []), strict=False)
        if (
            column.name in facts.nulls
            or column.name in facts.null_elements
            or any(size not in (-1, low) or size not in (-1, high) for size, (low, high) in spans)
        ):
            raise _bad_row(array, column, job.layout.sources[index].name, where)
        parts = components(to_numpy(array, column), column)
        found.update(zip(names[index], parts, strict=True))
    return found


def _bad_row(array: pa.Array, column: Column, name: str, where: _Where) -> FeedError:
    for index, value in enumerate(array.to_pylist()):
        complaint = _complaint(value, column.shape)
        if complaint:
            return FeedError(
                f"column {name!r} {complaint} in {where.row(index)}: mend or drop such rows before"
                " predict()"
            )
    raise AssertionError(f"no bad row in {name}")


def _complaint(value: Any, shape: tuple[int, ...]) -> str | None:
    if value is None:
        return "has a null"
    if not shape:
        return None
    is_sparse = isinstance(value, dict)
    length = value["size"] if is_sparse else len(value)
    if shape[0] not in (-1, length):
        return f"has {length} values where the model takes {shape[0]}"
    nested = () if is_sparse else (_complaint(item, shape[1:]) for item in value)
    return next(filter(None, nested), None)


def _apply(job: Job, tensors: Mapping[str, np.ndarray], where: _Where) -> dict[str, np.ndarray]:
    import tensorflow as tf

    model = load_model(job.uri, job.identity)
    try:
        outputs = model.signatures[job.signature.name](
            **{name: tf.constant(array) for name, array in tensors.items()}
        )
    except tf.errors.InvalidArgumentError as error:  # an id beyond its embedding, as a rule
        raise FeedError(
            f"the model refuses a value in the batch that begins with {where.row(0)}:"
            f" {error.message.split('[[')[0].strip().splitlines()[-1]}"
        ) from error
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@functools.lru_cache(maxsize=_MODELS_KEPT)
def load_model(uri: str, identity: str) -> Any:
    """The exported model as a TensorFlow object, from a copy that has been checked.

    Raises LakeError when another model lies there, DamagedError for a file that is not as written.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    import tensorflow as tf

    _limit_threads()
    lake = CommittedStorage(uri)
    # variables and tables are in memory once it is loaded: no files are left to be removed later,
    # when the worker may be killed. Spark removes its own directory if that happens here
    scratch = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    with tempfile.TemporaryDirectory(
        prefix="tfos-model-", dir=scratch if os.path.isdir(scratch) else None
    ) as local:
        if digest(lake.fetch_dir("", local, without=[KERAS_FILE])) != identity:
            raise LakeError(
                f"{uri} is another model than when predict() was called: call predict() again"
            )
        return tf.saved_model.load(local)


def _limit_threads() -> None:
    """As many threads as the Spark task has cores, where TensorFlow has not been used before."""
    import tensorflow as tf
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is None:
        return
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(context.cpus())
        tf.config.threading.set_inter_op_parallelism_threads(context.cpus())


def _output_column(outputs: Mapping[str, np.ndarray], signature: Signature, rows: int) -> pa.Array:
    arrays = [_column(outputs[output.name], output, rows) for output in signature.outputs]
    if not signature.is_struct:
        return arrays[0]
    return pa.StructArray.from_arrays(arrays, [output.name for output in signature.outputs])


def _column(values: np.ndarray, output: Output, rows: int) -> pa.Array:
    if len(values) != rows:
        raise FeedError(
            f"output {output.name!r} of the model has {len(values)} rows for a batch of {rows}: the"
            " first dimension of an output must be the batch's"
        )
    flat = values.reshape(-1)
    if output.dtype == "string":
        column = pa.array(flat, pa.string())
    else:
        column = pa.array(flat.astype(output.column_dtype, copy=False))
    # from the inside out: the offsets of arrays that are all of one length
    for depth in range(output.rank, 0, -1):
        length, count = values.shape[depth], int(np.prod(values.shape[:depth]))
        offsets = np.arange(count + 1, dtype=np.int32) * np.int32(length)
        column = pa.ListArray.from_arrays(pa.array(offsets), column)
    return column
