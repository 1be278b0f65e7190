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
from tfos.feeding.plan import EpochOrder, Slice, window_rows
from tfos.feeding.schema import Column, Manifest, manifest_path
from tfos.lake import Lake

T = TypeVar("T")
_WINDOWS_KEPT = 3
# opening one costs little; one that is mapped takes its space even when the cache has let it go
_SHARDS_OPEN = 8


@dataclass(frozen=True)
class View:
    """Which columns of a feed are read, and in which order its rows come."""

    feed: str
    columns: tuple[str, ...]
    shuffle: bool
    seed: int

    def to_text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> View:
        record = json.loads(text)
        return cls(**{**record, "columns": tuple(record["columns"])})


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


@dataclass(frozen=True)
class _Ragged:
    values: np.ndarray
    splits: np.ndarray


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

        Returns for each column of the view, in its order: [rows] for a scalar column (strings as
        bytes objects), [rows, k] for a dense array column, and for a ragged one two arrays, its
        values and its row splits, int64 [rows + 1].
        """
        with self._lock:
            order = self._order(view, epoch)
            parts = []
            for window, first, last in order.windows(start, stop):
                content, permutation = self._window(view, epoch, order, window)
                if permutation is None:
                    parts.append([_slice(column, first, last) for column in content])
                else:
                    rows = permutation[first:last]
                    parts.append([_take(column, rows) for column in content])
        columns = (
            parts[0]
            if len(parts) == 1
            else [_concat(column) for column in zip(*parts, strict=True)]
        )
        flat: list[np.ndarray] = []
        for column in columns:
            flat.extend([column.values, column.splits] if isinstance(column, _Ragged) else [column])
        return flat

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
            arrays = [_to_numpy(table.column(name), manifest.column(name)) for name in view.columns]
            return arrays, order.permutation(window)

        # unshuffled windows are the same in every epoch
        return self._windows.of((view, epoch if view.shuffle else 0, window), load)

    def _table(self, path: str) -> pa.Table:
        def load() -> pa.Table:
            with self._cache.open(path) as local:
                return pa.ipc.open_file(pa.memory_map(local)).read_all()

        return self._shards.of(path, load)


def _to_numpy(column: pa.ChunkedArray, kind: Column) -> np.ndarray | _Ragged:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # older pyarrow
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    if kind.length is None:
        return _flat(array, kind.dtype)
    values = _flat(array.flatten(), kind.dtype)
    if not kind.is_ragged:
        return values.reshape(-1, kind.length)
    splits = array.offsets.to_numpy().astype(np.int64)
    return _Ragged(values, splits - splits[0])


def _flat(array: pa.Array, dtype: str) -> np.ndarray:
    if dtype == "string":
        binary = pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary()
        return np.asarray(array.cast(binary).to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _slice(column: Any, first: int, last: int) -> Any:
    if not isinstance(column, _Ragged):
        return column[first:last]
    begin, end = column.splits[first], column.splits[last]
    return _Ragged(column.values[begin:end], column.splits[first : last + 1] - begin)


def _take(column: Any, rows: np.ndarray) -> Any:
    if not isinstance(column, _Ragged):
        return column[rows]
    starts = column.splits[rows]
    lengths = column.splits[rows + 1] - starts
    splits = np.concatenate([[0], np.cumsum(lengths)])
    # index of each value: the start of its row, plus its place in the row
    places = np.arange(splits[-1]) - np.repeat(splits[:-1], lengths)
    return _Ragged(column.values[np.repeat(starts, lengths) + places], splits)


def _concat(parts: tuple[Any, ...]) -> Any:
    if not isinstance(parts[0], _Ragged):
        return np.concatenate(parts)
    splits = [parts[0].splits]
    for part in parts[1:]:
        splits.append(part.splits[1:] + splits[-1][-1])
    return _Ragged(np.concatenate([part.values for part in parts]), np.concatenate(splits))
