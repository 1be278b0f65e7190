"""Feeds written by hand, as tfos.feeding.writer leaves them; a DataFrame; a registry."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from spark_types import struct

from tfos.errors import RegistryError
from tfos.feeding.arrived import ArrivedWriter
from tfos.feeding.schema import Column, Manifest, Shard
from tfos.lake.run_directory import RunDirectory, feed_path, is_arrival, manifest_path

_ARROW = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


_SPARSE = pa.struct(
    [
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)


def _arrow_type(column: Column) -> pa.DataType:
    kind = _ARROW[column.dtype]
    for _ in column.shape:
        kind = pa.list_(kind)
    return _SPARSE if column.sparse else kind


def write_feed(
    lake: RunDirectory,
    name: str,
    columns: Sequence[Column],
    rows: Mapping[str, Sequence[Any]],
    shard_rows: Sequence[int],
    batch_rows: int = 3,
) -> Manifest:
    """Writes `rows` (column -> values) as shards of the given sizes and the feed's manifest.

    A shard is written in record batches of `batch_rows` rows, so that its columns are chunked.
    """
    fields = [(column.name, _arrow_type(column)) for column in columns]
    table = pa.table(
        {field: pa.array(rows[field], kind) for field, kind in fields}, schema=pa.schema(fields)
    )
    assert sum(shard_rows) == table.num_rows
    shards, at = [], 0
    for number, count in enumerate(shard_rows):
        path = f"feed/{name}/{number:06d}-0.arrow"
        part = table.slice(at, count)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            for batch in part.to_batches(max_chunksize=batch_rows):
                writer.write_batch(batch)
        lake.write(path, sink.getvalue().to_pybytes())
        shards.append(Shard(path, count, max(1, part.nbytes)))
        at += count
    manifest = Manifest(name, tuple(columns), tuple(shards))
    lake.write_json(manifest_path(name), manifest.as_json())
    return manifest


def arrive(lake: RunDirectory, manifest: Manifest, shards: int) -> None:
    """Makes a feed one of which so many shards have come, the last ones first, or all of them."""
    arrival = tuple(reversed(range(len(manifest.shards))))
    if shards < len(manifest.shards):
        lake.remove(manifest_path(manifest.feed))
        for file in filter(is_arrival, lake.list(feed_path(manifest.feed))):
            lake.remove(f"{feed_path(manifest.feed)}/{file}")
        writer = ArrivedWriter(lake, replace(manifest, shards=(), complete=False))
        writer.begin()
        came = tuple(manifest.shards[number] for number in arrival[:shards])
        for count in range(shards):  # each in a file of its own, which is always the same
            writer.tell(came[: count + 1])
    else:
        whole = replace(manifest, arrival=arrival)
        lake.write_json(manifest_path(manifest.feed), whole.as_json())


class Frame:
    """As much of a DataFrame as write_feeds needs.

    fields: name -> (Spark's type, Arrow's type); partitions: rows as dicts, cut in batches of two.
    """

    def __init__(self, fields, *partitions):
        schema = struct(**{name: kind for name, (kind, _) in fields.items()})
        self.schema = types.SimpleNamespace(jsonValue=lambda: schema)
        conf = types.SimpleNamespace(get=lambda key: "10000", set=lambda key, value: None)
        self.sparkSession = types.SimpleNamespace(conf=conf)
        self._kind = pa.schema([(name, kind) for name, (_, kind) in fields.items()])
        self._partitions = partitions

    def mapInArrow(self, function, schema):
        from pyspark import TaskContext

        rows = []
        for number, partition in enumerate(self._partitions):
            context = TaskContext()
            context._partitionId, context._taskAttemptId = number, number
            TaskContext._taskContext = context
            table = pa.Table.from_pylist(partition, self._kind)
            try:
                for batch in function(iter(table.to_batches(max_chunksize=2))):
                    rows += [types.SimpleNamespace(**row) for row in batch.to_pylist()]
            finally:
                TaskContext._taskContext = None
        return types.SimpleNamespace(collect=lambda: rows)


class Nodes(dict):
    """A registry's nodes by path."""

    is_settled = True
    taken = ""

    def check_taken(self):
        if self.taken:
            raise RegistryError(self.taken)

    def sync(self, path):
        pass

    def put(self, path, value):
        self[path] = value

    def create(self, path, value):
        return self.setdefault(path, value) == value

    def remove(self, path):
        for key in [key for key in self if key == path or key.startswith(f"{path}/")]:
            del self[key]

    def children(self, path):
        return [key.rpartition("/")[2] for key in self if key.rpartition("/")[0] == path]
