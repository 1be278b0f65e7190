"""Feeds written by hand, as tfos.feeding.writer leaves them in the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tfos.feeding.schema import Column, Manifest, Shard, manifest_path
from tfos.lake import Lake

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
    lake: Lake,
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
        with lake.open_new(path) as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for batch in part.to_batches(max_chunksize=batch_rows):
                writer.write_batch(batch)
        shards.append(Shard(path, count, max(1, part.nbytes)))
        at += count
    manifest = Manifest(name, tuple(columns), tuple(shards))
    lake.write_json(manifest_path(name), manifest.as_json())
    return manifest
