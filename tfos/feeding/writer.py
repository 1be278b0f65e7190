"""From a DataFrame to shards: runs in Spark tasks, one partition each.

A partition streams its Arrow batches into one or more shards of bounded size. When all are
complete they are published in the registry by one atomic create, and the first writer wins: a
retried or speculative attempt of the task, whose rows may even differ when the ETL is not
deterministic, finds the partition published and removes its own files. The driver reads back what
was published and writes the feed's manifest, which later runs of the driver trust.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tfos.errors import FeedError, LakeError
from tfos.feeding.schema import Column, Manifest, Shard, columns_of, manifest_path, resolve_lengths
from tfos.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SHARD_BYTES = 64 << 20
# (feed, partition, record) -> whether this call was the first
Publish = Callable[[str, int, dict[str, Any]], bool]
_BATCH_ROWS = 65_536
_BATCH_ROWS_DEFAULT = "10000"
_BATCH_ROWS_CONF = "spark.sql.execution.arrow.maxRecordsPerBatch"


class _PartitionWriter:
    """Streams one partition's batches into shards. Not thread-safe."""

    def __init__(self, lake: Lake, feed: str, stem: str, columns: tuple[Column, ...]) -> None:
        self._lake, self._feed, self._stem = lake, feed, stem
        self._columns = columns
        self._writer: Any = None
        self._bytes = 0
        self._open_rows = 0
        self.shards: list[Shard] = []
        self.nulls: dict[str, int] = {}
        self.lengths: dict[str, tuple[int, int]] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        for index, column in enumerate(self._columns):
            self._inspect(column, batch.column(index))
        if self.nulls or not batch.num_rows:
            return  # the feed fails; only the counting goes on, so that the error is complete
        if self._writer is None:
            path = f"feed/{self._feed}/{self._stem}-{len(self.shards)}.arrow"
            self.shards.append(Shard(path, 0, 0))
            self._sink = self._lake.open_new(path)
            self._writer = pa.ipc.new_file(self._sink, batch.schema)
        self._writer.write_batch(batch)
        self._open_rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes >= SHARD_BYTES:
            self.close_shard()

    def _inspect(self, column: Column, array: pa.Array) -> None:
        nulls = array.null_count
        if column.length is not None:
            nulls += array.flatten().null_count
            if len(array) > array.null_count:
                span = pc.min_max(pc.list_value_length(array)).as_py()
                low, high = self.lengths.get(column.name, (span["min"], span["max"]))
                self.lengths[column.name] = (min(low, span["min"]), max(high, span["max"]))
        if nulls:
            self.nulls[column.name] = self.nulls.get(column.name, 0) + nulls

    def close_shard(self) -> None:
        writer, self._writer = self._writer, None  # also when it fails: discard() comes here again
        if writer is None:
            return
        writer.close()
        self._sink.close()
        self.shards[-1] = Shard(self.shards[-1].path, self._open_rows, self._bytes)
        self._open_rows = self._bytes = 0

    def discard(self) -> None:
        # what stays is removed by the driver; the error that led here is the one to be told
        with contextlib.suppress(LakeError):
            self.close_shard()
            for shard in self.shards:
                self._lake.remove(shard.path)


def _write_partition(
    batches: Iterable[pa.RecordBatch],
    lake: Lake,
    feed: str,
    columns: tuple[Column, ...],
    connect: Callable[[], Any],
) -> Iterator[pa.RecordBatch]:
    """One Spark task: writes a partition and publishes it; yields one row, its null counts."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    partition = context.partitionId()
    stem = f"{partition:06d}-{context.taskAttemptId()}"
    writer = _PartitionWriter(lake, feed, stem, columns)
    if not lake.exists("spec.json"):
        raise LakeError(
            f"executor host {socket.gethostname()} does not see {lake.uri('spec.json')}, which the"
            " driver wrote: name a lake that all machines share with --lake"
        )
    keep = False
    try:
        for batch in batches:
            writer.write(batch)
        writer.close_shard()
        if not writer.nulls:
            record = {"shards": [vars(s) for s in writer.shards], "lengths": writer.lengths}
            with connect() as publish:
                # when it fails the shards may be published all the same: only a clear no ends them,
                # and the driver removes what turns out to be a stray
                keep = True
                keep = publish(feed, partition, record)
    finally:
        if not keep:
            writer.discard()
    yield pa.RecordBatch.from_pydict(
        {"partition": pa.array([partition], pa.int32()), "nulls": [json.dumps(writer.nulls)]}
    )


def write_feeds(
    frames: dict[str, DataFrame],
    lake: Lake,
    connect: Callable[[], Any],
    published: Callable[[str], dict[int, dict[str, Any]]],
) -> dict[str, Manifest]:
    """Writes every DataFrame as a feed and commits the manifests. Called on the driver; blocks.

    connect: picklable; gives a context manager around a Publish function, on an executor.
    published: feed name -> the record of each published partition, as the registry has them.
    Raises FeedError for an unsupported type, a null or an empty DataFrame; nothing is published.
    """
    columns = {
        name: columns_of(name, [(f.name, f.dataType.simpleString()) for f in frame.schema.fields])
        for name, frame in frames.items()
    }
    records = {}
    for name, frame in frames.items():
        _run_job(name, frame, lake, columns[name], connect)
        records[name] = published(name)
    lengths: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in frames}
    for name, partitions in records.items():
        for record in partitions.values():
            for column, (low, high) in record["lengths"].items():
                was = lengths[name].get(column, (low, high))
                lengths[name][column] = (min(was[0], low), max(was[1], high))
    resolved = resolve_lengths(columns, lengths)
    manifests = {}
    for name, partitions in records.items():
        shards = [Shard(**s) for number in sorted(partitions) for s in partitions[number]["shards"]]
        manifests[name] = Manifest(name, resolved[name], tuple(shards))
        if not manifests[name].rows:
            raise FeedError(
                f"feed {name!r} has no rows; check the filters and joins"
                " of its DataFrame in pre_train"
            )
    for name, manifest in manifests.items():
        _remove_strays(lake, manifest)
        lake.write_json(manifest_path(name), manifest.as_json())
    return manifests


def _run_job(
    name: str, frame: DataFrame, lake: Lake, columns: tuple[Column, ...], connect: Callable[[], Any]
) -> None:
    # a call of write() per 64k rows instead of 10k; put back as it was, it is the user's session
    conf = frame.sparkSession.conf
    before = conf.get(_BATCH_ROWS_CONF)
    if before == _BATCH_ROWS_DEFAULT:  # somebody who chose another size has wide rows
        conf.set(_BATCH_ROWS_CONF, str(_BATCH_ROWS))
    try:
        rows = frame.mapInArrow(
            lambda batches: _write_partition(batches, lake, name, columns, connect),
            "partition int, nulls string",
        ).collect()
    finally:
        conf.set(_BATCH_ROWS_CONF, before)
    nulls: dict[str, int] = {}
    for row in rows:
        for column, count in json.loads(row.nulls).items():
            nulls[column] = nulls.get(column, 0) + count
    if nulls:
        found = ", ".join(f"{column!r} has {count}" for column, count in sorted(nulls.items()))
        raise FeedError(
            f"feed {name!r} has nulls: column {found}; fill or drop them in pre_train,"
            " e.g. df.fillna({...}) or df.dropna()"
        )


def _remove_strays(lake: Lake, manifest: Manifest) -> None:
    """Removes what killed attempts of tasks left beside the published shards."""
    published = {shard.path for shard in manifest.shards}
    for file in lake.list(f"feed/{manifest.feed}"):
        path = f"feed/{manifest.feed}/{file}"
        if path not in published:
            lake.remove(path)
