"""From shards to batches of NumPy arrays, in the order of feeding.plan.

A reader serves any rows of any epoch. It memory-maps shards (those of a remote lake are fetched
to local disk first, the next window's while this one is read) and keeps the few windows it read
last. A process that reads whole windows has their dense columns put in order at once, and those of
the next window in the background while this one is read: a gather of all of a column takes half as
long as its gathers by the batch, and a batch is copied from it. Columns whose rows vary in length
are gathered by the batch, and so is what a process reads of windows that it shares with others.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from tfos.errors import FeedError
from tfos.feeding.arrived import ArrivedReader
from tfos.feeding.cache import CACHE_BYTES, ShardCache
from tfos.feeding.convert import Rows, components, concat_rows, copy_rows, take_rows, to_numpy
from tfos.feeding.plan import EpochOrder, Range, window_rows, within
from tfos.feeding.schema import Column, Manifest, blocks
from tfos.lake.run_directory import RunDirectory, arrived_path, manifest_path
from tfos.lake.storage import retried

T = TypeVar("T")
_WINDOWS_KEPT = 3
_VIEWS_KEPT = 8
# opening one costs little; one that is mapped takes its space even when the cache has let it go
_SHARDS_OPEN = 8


@dataclass(frozen=True)
class View:
    """Which columns of a feed are read, and in which order its rows come.

    part: only the rows [first, last) of the feed, counted before any shuffling.
    left: only these positions [start, stop) of each epoch, one after the other.
    """

    feed: str
    columns: tuple[str, ...]
    shuffle: bool
    seed: int
    part: Range | None = None
    left: tuple[Range, ...] | None = None

    def to_text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    @functools.lru_cache(maxsize=_VIEWS_KEPT)  # with thousands of columns each read would take long
    def from_text(cls, text: str) -> View:
        record = json.loads(text)
        part = tuple(record["part"]) if record["part"] else None
        left = None if record["left"] is None else tuple(map(tuple, record["left"]))
        return cls(**{**record, "columns": tuple(record["columns"]), "part": part, "left": left})


class _Recent(OrderedDict[Hashable, Any]):
    """The `size` values used last, by key. of() is thread-safe."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._lock = threading.Lock()

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self:
                self.move_to_end(key)
            else:
                self[key] = make()
                while len(self) > self._size:
                    self.popitem(last=False)
            return self[key]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Ordered:
    """A block of columns in a window; row i is rows[order[i]], or rows[i] without an order."""

    rows: Rows
    order: np.ndarray | None

    def read(self, first: int, last: int) -> Rows:
        """Rows [first, last), in memory of their own."""
        if self.order is None:
            return copy_rows(self.rows, first, last)
        return take_rows(self.rows, self.order[first:last])


@dataclass(frozen=True)
class _ShardOrder:
    """The order of an epoch, and the paths of the shards that it counts."""

    rows: EpochOrder
    paths: list[str]


class FeedReader:
    """Reads the feeds of one run. Thread-safe.

    cache: a local directory for the shards of a remote lake.
    cache_bytes: about how much of it they may take, see ShardCache.
    readers: how many processes take turns in reading the rows of a window.
    """

    def __init__(
        self, lake: RunDirectory, cache: str, cache_bytes: int = CACHE_BYTES, readers: int = 1
    ) -> None:
        self._lake = lake
        self._cache = ShardCache(lake, cache, cache_bytes)
        self._reads_whole = readers == 1
        # of each view the window after the one that was loaded last
        self._ahead: dict[View, tuple[Hashable, Future[list[_Ordered]]]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._followers: dict[str, ArrivedReader] = {}
        self._looking = threading.Lock()
        self._shards = _Recent(_SHARDS_OPEN)
        self._windows = _Recent(_WINDOWS_KEPT)
        self._orders = _Recent(_WINDOWS_KEPT)
        self._views = _Recent(_VIEWS_KEPT)

    def manifest(self, feed: str) -> Manifest:
        """What was known of a feed when it was last read. Raises LakeError when there is none."""
        return self._manifests[feed] if feed in self._manifests else self.arrived(feed)

    def arrived(self, feed: str) -> Manifest:
        """What there is of a feed now. Raises LakeError when there is none."""
        if feed not in self._manifests or not self._manifests[feed].complete:
            is_known = feed in self._manifests
            follower = self._followers.setdefault(feed, ArrivedReader(self._lake, feed))

            def look() -> Manifest:
                path = manifest_path(feed)
                is_arriving = is_known or self._lake.exists(arrived_path(feed))
                if is_arriving and not self._lake.exists(path):
                    return follower.look()
                return Manifest.from_json(self._lake.read_json(path))

            # some storages show a file that has just been written as missing, or in part
            passing = (FileNotFoundError, ValueError) if is_known else ValueError
            with self._looking:  # a follower is one thread's at a time, and all see what it has
                if feed not in self._manifests or not self._manifests[feed].complete:
                    self._manifests[feed] = retried(
                        look, lambda error: isinstance(error.__cause__, passing)
                    )
        return self._manifests[feed]

    def read(self, view: View, epoch: int, start: int, stop: int) -> list[np.ndarray]:
        """The rows at positions [start, stop) of an epoch of `view`.

        Returns for each of the schema.blocks() of its columns, in their order, one array; for a
        column by itself those that convert.components() gives; strings are bytes objects. Nothing
        else has their memory: TensorFlow takes it for its own, and writes its results there.
        """
        view, order, windows = self._located(view, epoch, start, stop)
        parts = []
        # no rows, too, have the dtypes and shapes of rows: those of none of the first window
        for window, first, last in windows or [(0, 0, 0)]:
            content = self._window(view, epoch, order, window)
            parts.append([column.read(first, last) for column in content])
        read = (
            parts[0]
            if len(parts) == 1
            else [concat_rows(block) for block in zip(*parts, strict=True)]
        )
        return [
            array
            for block, rows in zip(self._blocks(view), read, strict=True)
            for array in components(rows, block[0])
        ]

    def table(self, view: View, epoch: int, start: int, stop: int) -> pa.Table:
        """The same rows as an Arrow table, of the canonical columns that feeding.convert makes.

        Not shuffled they are slices of the mapped shards: nothing is copied.
        """
        view, order, windows = self._located(view, epoch, start, stop)
        parts = []
        for window, first, last in windows or [(0, 0, 0)]:
            permutation = order.rows.permutation(window)
            begin, end = order.rows.window_bounds(window)
            if permutation is None:
                parts.append(self._mapped(view, order, begin + first, begin + last))
            else:
                whole = self._mapped(view, order, begin, end)
                parts.append(whole.take(pa.array(permutation[first:last])))
        return pa.concat_tables(parts)

    def _located(
        self, view: View, epoch: int, start: int, stop: int
    ) -> tuple[View, _ShardOrder, list[tuple[int, int, int]]]:
        """Where positions of an epoch of `view` lie: as EpochOrder.windows, of the whole epoch."""
        ranges = [(start, stop)]
        if view.left is not None:
            ranges = within(view.left, start, stop)
            view = replace(view, left=None)
        order = self._order(view, epoch, max((end for _, end in ranges), default=0))
        return view, order, [window for each in ranges for window in order.rows.windows(*each)]

    def _mapped(self, view: View, order: _ShardOrder, start: int, stop: int) -> pa.Table:
        """The rows that lie at these positions before any are permuted inside windows."""
        columns = list(dict.fromkeys(view.columns))
        pieces = [
            self._table(order.paths[part.shard])
            .select(columns)
            .slice(part.start, part.stop - part.start)
            for part in order.rows.slices(start, stop)
        ]
        # of no rows, too, the columns have their types
        return pa.concat_tables(pieces or [self._table(order.paths[0]).select(columns).slice(0, 0)])

    def _blocks(self, view: View) -> list[list[Column]]:
        manifest = self.manifest(view.feed)

        def make() -> list[list[Column]]:
            columns = [manifest.column(name) for name in view.columns]
            return [[columns[number] for number in block] for block in blocks(columns)]

        return self._views.of((view.feed, view.columns), make)

    def _order(self, view: View, epoch: int, stop: int) -> _ShardOrder:
        """The order of an epoch, as far as `stop` at least.

        Who asks for rows knows that they are there; this process may be the last one to see them.
        """
        may_come = view.shuffle and epoch == 0 and view.part is None

        def reaches(manifest: Manifest) -> bool:
            return manifest.complete or (may_come and stop <= manifest.rows)

        def look() -> Manifest:
            found = self.arrived(view.feed)
            if not reaches(found):
                raise FeedError(
                    f"rows up to {stop} of epoch {epoch + 1} of feed {view.feed!r} are asked for,"
                    f" and {found.rows} have arrived"
                )
            return found

        manifest = self.manifest(view.feed)
        if not reaches(manifest):
            manifest = retried(look, lambda error: isinstance(error, FeedError))

        def make() -> _ShardOrder:
            shards = manifest.as_they_came if may_come else None
            window: int | list[int] = window_rows(manifest.rows, manifest.bytes)
            if shards is None:
                shards = manifest.shards
            else:
                window = [window_rows(shard.rows, shard.bytes) for shard in shards]
            rows = [shard.rows for shard in shards]
            order = EpochOrder(rows, window, view.shuffle, view.seed, epoch, view.part)
            return _ShardOrder(order, [shard.path for shard in shards])

        return self._orders.of((view, epoch, len(manifest.shards)), make)

    def _window(self, view: View, epoch: int, order: _ShardOrder, window: int) -> list[_Ordered]:
        """The blocks of columns of a window."""

        # unshuffled windows are the same in every epoch
        def key(of: int) -> Hashable:
            return view, epoch if view.shuffle else 0, of

        def make() -> list[_Ordered]:
            ahead = self._ahead.pop(view, None)
            # one that failed is loaded again, for the error that it has now
            if ahead is None or ahead[0] != key(window) or ahead[1].exception() is not None:
                content = self._load(view, order, window)
            else:
                content = ahead[1].result()
            end = order.rows.window_bounds(window)[1]
            if self._reads_whole and view.shuffle and end < order.rows.rows:
                work = _begun(lambda: self._load(view, order, window + 1))
                self._ahead[view] = key(window + 1), work
            return content

        return self._windows.of(key(window), make)

    def _load(self, view: View, order: _ShardOrder, window: int) -> list[_Ordered]:
        found = self._blocks(view)

        def paths(of: int) -> list[str]:
            bounds = order.rows.window_bounds(of)
            return [order.paths[part.shard] for part in order.rows.slices(*bounds)]

        self._cache.ahead([*paths(window), *paths(window + 1)])
        table = self._mapped(view, order, *order.rows.window_bounds(window))
        permutation = order.rows.permutation(window)
        content = []
        for block in found:
            each = [to_numpy(table.column(column.name), column) for column in block]
            rows = each[0] if len(each) == 1 else np.stack(each, axis=1)  # type: ignore[arg-type]
            # not what varies in length: its gather takes several times the memory of the window
            if self._reads_whole and permutation is not None and isinstance(rows, np.ndarray):
                content.append(_Ordered(take_rows(rows, permutation), None))
            else:
                content.append(_Ordered(rows, permutation))
        return content

    def _table(self, path: str) -> pa.Table:
        def load() -> pa.Table:
            with self._cache.open(path) as local:
                return pa.ipc.open_file(pa.memory_map(local)).read_all()

        return self._shards.of(path, load)


def _begun(work: Callable[[], T]) -> Future[T]:
    """Its result, from a thread that the process does not wait for when it ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name="window", daemon=True).start()
    return future
