"""From a partition of a DataFrame to shards: runs in Spark tasks.

A partition streams its Arrow batches into one or more shards of bounded size. When all are
complete they are published in the registry by one atomic create, and the first writer wins: a
retried or speculative attempt of the task, whose rows may even differ when the ETL is not
deterministic, finds the partition published and removes its own files.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from tfos.errors import FeedError, LakeError
from tfos.feeding.convert import canonical, inspect, pieces
from tfos.feeding.layout import Layout
from tfos.feeding.schema import Shard
from tfos.lake.run_directory import SPEC, RunDirectory, feed_path

SHARD_BYTES = 64 << 20
# (feed, partition, record) -> whether this call was the first
Publish = Callable[[str, int, dict[str, Any]], bool]


class _PartitionWriter:
    """Streams one partition's batches into shards. Not thread-safe.

    A shard goes to the lake while the next one is collected: two are in memory at most.
    """

    def __init__(self, lake: RunDirectory, layout: Layout, stem: str) -> None:
        self._lake, self._layout, self._stem = lake, layout, stem
        self._writer: Any = None
        self._lake_writer = ThreadPoolExecutor(1, "shard")
        self._writing: Future[None] | None = None
        self._bytes = 0
        self._open_rows = 0
        self.shards: list[Shard] = []
        self.nulls: dict[str, int] = {}
        self.null_elements: dict[str, int] = {}
        self.spans: dict[str, list[tuple[int, int]]] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """Writes a batch of the DataFrame. Raises FeedError for a value that cannot be fed."""
        for piece in pieces(batch, self._layout):
            self._write(canonical(piece, self._layout))

    def _write(self, batch: pa.RecordBatch) -> None:
        facts = inspect(batch, self._layout)
        add_counts(self.nulls, facts.nulls)
        add_counts(self.null_elements, facts.null_elements)
        widen(self.spans, facts.spans)
        if self.nulls or self.null_elements:
            return  # the feed fails; only the counting goes on, so that the error is complete
        if self._writer is None:
            self._sink = pa.BufferOutputStream()
            self._writer = pa.ipc.new_file(self._sink, batch.schema)
        self._writer.write_batch(batch)
        self._open_rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes >= SHARD_BYTES:
            self._close_shard()

    def finish(self) -> None:
        """Blocks until all shards are in the lake."""
        if self._writer is not None:
            self._close_shard()
        self._wait()

    def _close_shard(self) -> None:
        self._writer.close()
        self._writer = None
        path = f"{feed_path(self._layout.feed)}/{self._stem}-{len(self.shards)}.arrow"
        shard = Shard(path, self._open_rows, self._bytes)
        self._open_rows = self._bytes = 0
        self._wait()
        self.shards.append(shard)
        content = self._sink.getvalue().to_pybytes()
        self._writing = self._lake_writer.submit(self._lake.write, shard.path, content)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def discard(self) -> None:
        # what stays is removed by the driver; the error that led here is the one to be told
        with contextlib.suppress(LakeError):
            self._wait()
        with contextlib.suppress(LakeError):
            for shard in self.shards:
                self._lake.remove(shard.path)


def add_counts(into: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        into[name] = into.get(name, 0) + count


def widen(
    into: dict[str, list[tuple[int, int]]], more: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    for name, spans in more.items():
        known = into.get(name, [])
        into[name] = [
            (min(low for low, _ in both), max(high for _, high in both))
            for both in (known[i : i + 1] + [*spans[i : i + 1]] for i in range(2))
            if both
        ]


def write_partition(
    batches: Iterable[pa.RecordBatch],
    lake: RunDirectory,
    layout: Layout,
    connect: Callable[[], Any],
) -> Iterator[pa.RecordBatch]:
    """One Spark task: writes a partition and publishes it; yields a row of what was wrong in it."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    partition = context.partitionId()
    # of another Spark application a task may have the same number
    stem = f"{partition:06d}-{context.taskAttemptId()}-{secrets.token_hex(4)}"
    writer = _PartitionWriter(lake, layout, stem)
    if not lake.exists(SPEC):
        raise LakeError(
            f"executor host {socket.gethostname()} does not see {lake.uri(SPEC)}, which the"
            " driver wrote: name a lake that all machines share with --lake"
        )
    keep, error = False, None
    try:
        for batch in batches:
            writer.write(batch)
        writer.finish()
        if not writer.nulls and not writer.null_elements:
            record = {"shards": [vars(s) for s in writer.shards], "spans": writer.spans}
            with connect() as publish:
                # when it fails the shards may be published all the same: only a clear no ends them,
                # and the driver removes what turns out to be a stray
                keep = True
                keep = publish(layout.feed, partition, record)
    except FeedError as reason:  # the driver raises it; to Spark the task is a success, not retried
        error = str(reason)
    finally:
        if not keep:
            writer.discard()
    wrong = {
        "partition": partition,
        "nulls": writer.nulls,
        "null_elements": writer.null_elements,
        "error": error,
    }
    yield pa.RecordBatch.from_pydict({"wrong": [json.dumps(wrong)]})
