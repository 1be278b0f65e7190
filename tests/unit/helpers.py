"""Feeds written by hand, as tfos.feeding.writer leaves them; a DataFrame; a registry."""

from __future__ import annotations

import copy
import itertools
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


def check_names(columns):
    """What Spark's mapInArrow does not find, it says in words of its own."""
    for name in columns:
        if "." in name or "`" in name or columns.count(name) > 1:
            raise ValueError(f"UNRESOLVED_COLUMN or AMBIGUOUS_REFERENCE: {name}")


def one_struct(frame, expression):
    """What selectExpr makes of a frame: it checks that names cannot be taken for something else."""
    assert expression == "struct(*) as row"
    check_names(frame.columns)
    return frame


def structs(batches):
    """Batches as Spark gives them to a function that is mapped over one column, a struct of all."""
    for batch in batches:
        yield pa.RecordBatch.from_arrays([batch.to_struct_array()], ["row"])


class Frame:
    """As much of a DataFrame as write_feeds needs.

    fields: name -> (Spark's type, Arrow's type); partitions: rows as dicts, cut in batches of two.
    """

    def __init__(self, fields, *partitions):
        schema = struct(**{name: kind for name, (kind, _) in fields.items()})
        self.schema = types.SimpleNamespace(jsonValue=lambda: schema)
        self.columns = list(fields)
        self._kind = pa.schema([(name, kind) for name, (_, kind) in fields.items()])
        self._partitions = partitions

    def toDF(self, *names):
        renamed = copy.copy(self)
        renamed.columns = list(names)
        return renamed

    def selectExpr(self, expression):
        return one_struct(self, expression)

    def mapInArrow(self, function, schema):
        from pyspark import TaskContext

        rows = []
        for number, partition in enumerate(self._partitions):
            context = TaskContext()
            context._partitionId, context._taskAttemptId = number, number
            TaskContext._taskContext = context
            table = pa.Table.from_pylist(partition, self._kind).rename_columns(self.columns)
            try:
                for batch in function(structs(table.to_batches(max_chunksize=2))):
                    rows += [types.SimpleNamespace(**row) for row in batch.to_pylist()]
            finally:
                TaskContext._taskContext = None
        return types.SimpleNamespace(collect=lambda: rows)


@dataclass
class Node:
    """text: its value as JSON. owner: the session it goes with. mark: of its last change."""

    text: str
    owner: Nodes | None
    mark: int


class Tree:
    """What a ZooKeeper in memory holds: the nodes by path, and who watches them."""

    def __init__(self):
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, list[NodeWatch]] = {}
        self.names: dict[str, list[NodeWatch]] = {}
        self._marks = itertools.count()

    def put(self, path, text, owner=None):
        is_new = path not in self.nodes
        self.nodes[path] = Node(text, owner, next(self._marks))
        self._changed(path, is_new)

    def delete(self, path):
        del self.nodes[path]
        self._changed(path, True)

    def children(self, path):
        start = f"{path}/"
        below = (key[len(start) :] for key in self.nodes if key.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def _changed(self, path, names_too):
        watches = list(self.values.get(path, ()))
        if names_too:
            watches += self.names.get(path.rpartition("/")[0], ())
        for watch in watches:
            watch.session.later(watch)


class NodeWatch:
    """Called when there may be something new: reads it, and tells it when it is new."""

    def __init__(self, session, path, tell, is_names):
        self.session, self.path, self._tell, self._is_names = session, path, tell, is_names
        self._last = ()
        self._of = session.tree.names if is_names else session.tree.values
        self._of.setdefault(path, []).append(self)

    def __call__(self):
        tree = self.session.tree
        if self._is_names:
            mark = value = tree.children(self.path)
        else:
            node = tree.nodes.get(self.path)
            mark, value = (node.mark, json.loads(node.text)) if node else (None, None)
        if mark != self._last:
            self._last = mark
            self._tell(value)

    def stop(self):
        if self in self._of[self.path]:
            self._of[self.path].remove(self)


class Nodes:
    """A Registry on a ZooKeeper in memory, which answers at once: see test_contract.py.

    later: called with each watch that may have something to tell; it calls the watch now, or later.
    """

    is_settled = True

    def __init__(self, tree=None, later=lambda watch: watch()):
        self.tree = Tree() if tree is None else tree
        self.later = later
        self.taken = ""
        self._held, self._claimed, self._watches = {}, set(), []
        self._is_closed = False

    def __bool__(self):
        return bool(self.tree.nodes)

    def connected_secs(self):
        return 1.0

    def check_taken(self):
        if self.taken:
            raise RegistryError(self.taken)

    def _check(self):
        if self._is_closed:
            raise RegistryError("the session is closed")

    def sync(self, path):
        self._check()

    def ensure(self, path):
        self._check()
        above = path.rpartition("/")[0]
        if above:
            self.ensure(above)
        if path not in self.tree.nodes:
            if above and self.tree.nodes[above].owner:
                raise RegistryError(f"cannot create {path}: ephemeral nodes have no children")
            self.tree.put(path, "null")

    def create(self, path, value=None, ephemeral=False):
        self._check()
        if path in self.tree.nodes:
            return False
        above = path.rpartition("/")[0]
        self.ensure(above)
        if self.tree.nodes[above].owner:
            raise RegistryError(f"cannot create {path}: ephemeral nodes have no children")
        self.tree.put(path, json.dumps(value), self if ephemeral else None)
        return True

    publish = create

    def put(self, path, value):
        if not self.create(path, value):
            self.tree.put(path, json.dumps(value), self.tree.nodes[path].owner)

    def claim(self, path, value):
        if not self.create(path, value, ephemeral=True):
            return False
        self._held[path] = value
        self._claimed.add(path)
        return True

    def hold(self, path, value):
        self._held[path] = value
        self._hold(path, value)

    def _hold(self, path, value):
        while not self.create(path, value, ephemeral=True):
            node = self.tree.nodes[path]
            if node.owner is self:
                self.tree.put(path, json.dumps(value), self)
                return
            if path in self._claimed and node.text != json.dumps(value):
                self.taken = path
                return
            if self.tree.children(path):
                raise RegistryError(f"cannot set {path}: there are nodes below it")
            self.tree.delete(path)

    def get(self, path):
        self._check()
        node = self.tree.nodes.get(path)
        return node and json.loads(node.text)

    def children(self, path):
        self._check()
        return self.tree.children(path)

    def remove(self, path):
        self._check()
        for name in self.tree.children(path):
            self.remove(f"{path}/{name}")
        if path in self.tree.nodes:
            self.tree.delete(path)

    def watch(self, path, callback):
        return self.watch_all({path: callback})[0]

    def watch_all(self, callbacks):
        self._check()
        return [self._begin(path, callback, False) for path, callback in callbacks.items()]

    def watch_children(self, path, callback):
        self.ensure(path)
        return self._begin(path, callback, True)

    def _begin(self, path, callback, is_names):
        watch = NodeWatch(self, path, callback, is_names)
        self._watches.append(watch)
        watch()
        return watch

    def refresh(self, watches):
        self._check()
        for watch in watches:
            watch()

    def expire(self):
        """What ends the session at the server: its nodes go. rejoin() begins another one."""
        for path in [path for path, node in self.tree.nodes.items() if node.owner is self]:
            self.tree.delete(path)

    def rejoin(self):
        """In touch again, in the same session or in a new one."""
        for path, value in self._held.items():
            node = self.tree.nodes.get(path)
            if node is None or node.owner is not self:
                self._hold(path, value)
        for watch in self._watches:
            self.later(watch)

    def close(self):
        for watch in self._watches:
            watch.stop()
        self.expire()
        self._is_closed = True
