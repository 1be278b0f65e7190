"""From shards to batches of NumPy arrays, in the order of feeding.plan.

A reader serves any rows of any epoch. It memory-maps shards (those of a remote lake are fetched
to local disk first, the next window's while this one is read) and keeps the few windows it read
last, so consecutive batches of one window cost a gather each.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from tfos.feeding.cache import CACHE_BYTES, ShardCache
from tfos.feeding.convert import components, concat_rows, slice_rows, take_rows, to_numpy
from tfos.feeding.plan import EpochOrder, Slice, window_rows
from tfos.feeding.schema import Manifest, manifest_path
from tfos.lake import Lake

T = TypeVar("T")
_WINDOWS_KEPT = 3
# opening one costs little; one that is mapped takes its space even when the cache has let it go
_SHARDS_OPEN = 8


@dataclass(frozen=True)
class View:
    """Which columns of a feed are read, and in which order its rows come.

    part: only the rows [first, last) of the feed, counted before any shuffling.
    """

    feed: str
    columns: tuple[str, ...]
    shuffle: bool
    seed: int
    part: tuple[int, int] | None = None

    def to_text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> View:
        record = json.loads(text)
        part = tuple(record["part"]) if record["part"] else None
        return cls(**{**record, "columns": tuple(record["columns"]), "part": part})


class _Recent(OrderedDict[Hashable, Any]):
    """The `size` values used last, by key."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        if key in self:
            self.move_to_end(key)
        else:
            self[key] = make()
            while len(self) > self._size:
                self.popitem(last=False)
        return self[key]  # type: ignore[no-any-return]


class FeedReader:
    """Reads the feeds of one run. Thread-safe.

    cache: a local directory for the shards of a remote lake.
    cache_bytes: about how much of it they may take, see ShardCache.
    """

    def __init__(self, lake: Lake, cache: str, cache_bytes: int = CACHE_BYTES) -> None:
        self._lake = lake
        self._cache = ShardCache(lake, cache, cache_bytes)
        self._lock = threading.Lock()
        self._manifests: dict[str, Manifest] = {}
        self._shards = _Recent(_SHARDS_OPEN)
        self._windows = _Recent(_WINDOWS_KEPT)
        self._orders = _Recent(_WINDOWS_KEPT)

    def manifest(self, feed: str) -> Manifest:
        """The manifest of a feed. Raises LakeError when there is none."""
        if feed not in self._manifests:
            self._manifests[feed] = Manifest.from_json(self._lake.read_json(manifest_path(feed)))
        return self._manifests[feed]

    def read(self, view: View, epoch: int, start: int, stop: int) -> list[np.ndarray]:
        """The rows at positions [start, stop) of an epoch of `view`.

        Returns for each column of the view, in its order, the arrays that convert.components()
        gives for it; strings are bytes objects.
        """
        with self._lock:
            order = self._order(view, epoch)
            parts = []
            # no rows, too, have the dtypes and shapes of rows: those of none of the first window
            for window, first, last in order.windows(start, stop) or [(0, 0, 0)]:
                content, permutation = self._window(view, epoch, order, window)
                if permutation is None:
                    parts.append([slice_rows(column, first, last) for column in content])
                else:
                    rows = permutation[first:last]
                    parts.append([take_rows(column, rows) for column in content])
        columns = (
            parts[0]
            if len(parts) == 1
            else [concat_rows(column) for column in zip(*parts, strict=True)]
        )
        manifest = self.manifest(view.feed)
        return [
            array
            for name, column in zip(view.columns, columns, strict=True)
            for array in components(column, manifest.column(name))
        ]

    def _order(self, view: View, epoch: int) -> EpochOrder:
        manifest = self.manifest(view.feed)
        return self._orders.of(
            (view, epoch),
            lambda: EpochOrder(
                [shard.rows for shard in manifest.shards],
                window_rows(manifest.rows, manifest.bytes),
                view.shuffle,
                view.seed,
                epoch,
                view.part,
            ),
        )

    def _window(self, view: View, epoch: int, order: EpochOrder, window: int) -> Any:
        """The columns of a window in shard order, and its permutation."""

        def load() -> Any:
            manifest = self.manifest(view.feed)

            def parts(of: int) -> list[tuple[str, Slice]]:
                bounds = order.window_bounds(of)
                return [(manifest.shards[part.shard].path, part) for part in order.slices(*bounds)]

            self._cache.ahead([path for path, _ in [*parts(window), *parts(window + 1)]])
            pieces = [
                self._table(path)
                .select(list(dict.fromkeys(view.columns)))
                .slice(part.start, part.stop - part.start)
                for path, part in parts(window)
            ]
            table = pa.concat_tables(pieces)
            arrays = [to_numpy(table.column(name), manifest.column(name)) for name in view.columns]
            return arrays, order.permutation(window)

        # unshuffled windows are the same in every epoch
        return self._windows.of((view, epoch if view.shuffle else 0, window), load)

    def _table(self, path: str) -> pa.Table:
        def load() -> pa.Table:
            with self._cache.open(path) as local:
                return pa.ipc.open_file(pa.memory_map(local)).read_all()

        return self._shards.of(path, load)
