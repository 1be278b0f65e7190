"""This process's share of a feed as NumPy arrays, Arrow tables or torch tensors: no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfos.errors import FeedError, UsageError
from tfos.feeding.arrival import Arrival
from tfos.feeding.plan import Position, Range, batches, left, share
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.schema import Column
from tfos.feeding.selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class Positions:
    """How far the epochs of each feed have come. Checkpoint data, as the ledger is."""

    def __init__(self) -> None:
        self._of: dict[str, Position] = {}
        self._order: dict[str, Any] = {}

    def of(self, feed: str, order: Any = None) -> Position:
        """Raises UsageError where an epoch that was begun had its rows in another order.

        order: JSON-able; of any order when not given.
        """
        position = self._of.get(feed, Position())
        if order is not None and position.takes and self._order[feed] != order:
            raise UsageError(
                f"an epoch of feed {feed!r} was begun with {self._order[feed]}, and cannot go on"
                f" with {order}: give ctx.dataset() the same again until the epoch ends"
            )
        return position

    def move(self, feed: str, position: Position, order: Any) -> None:
        self._of[feed], self._order[feed] = position, order

    def as_json(self) -> dict[str, Any]:
        return {
            feed: {"epoch": at.epoch, "takes": at.takes, "order": self._order[feed]}
            for feed, at in self._of.items()
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        for feed, at in record.items():
            takes = tuple((replicas, rows) for replicas, rows in at["takes"])
            self.move(feed, Position(at["epoch"], takes), at["order"])


@dataclass(frozen=True)
class Given:
    """Rows that were given out, of all processes together.

    due: rows of the whole epoch. done: those of the epoch that were given out so far.
    trains: whether they count as trained on.
    """

    feed: str
    epoch: int
    rows: int
    done: int
    due: int
    trains: bool


class ShareDataset:
    """Batches of a feed, each process its share. Made by GangContext.dataset().

    Each iteration over numpy(), arrow() or torch() gives one epoch, newly shuffled; all processes
    get the same number of batches of it, of `batch_size` rows each. What is left over of the rows
    is in the last batch, which may be shorter, or longer by one row. No row is left out, and none
    comes twice.

    A batch counts as trained on when it is given out: a checkpoint that is saved after its step
    goes on behind it. The first iteration of a process goes on where the checkpoint is, in the
    middle of an epoch for one, and so does one after a `break`. whole() and in_order() are for
    looking at rows, which then count as read, from the first to the last each time.

    batch_size: None for one batch of all rows of the share. rank, size: this process, of so many.
    on_given: told of each batch before it is given out.
    """

    def __init__(
        self,
        reader: FeedReader,
        arrival: Arrival,
        batch_size: int | None,
        features: Sequence[str] | str | None,
        label: str | Sequence[str] | None,
        weight: str | None,
        shuffle: bool,
        seed: int,
        *,
        rank: int,
        size: int,
        positions: Positions,
        on_given: Callable[[Given], None],
    ) -> None:
        manifest = arrival.wait_complete()
        if batch_size is not None and batch_size < 1:
            raise FeedError(
                f"batch_size is {batch_size} for feed {manifest.feed!r}: use at least 1, or None"
                " for all rows of the share in one batch"
            )
        self._reader, self._positions, self._on_given = reader, positions, on_given
        self._selection = Selection.of(manifest, features, label, weight)
        columns = tuple(column.name for column in self._selection.columns)
        self._view = View(manifest.feed, columns, shuffle, seed)
        self._rank, self._size = rank, size
        self._trains = True
        self.feed, self.rows = manifest.feed, manifest.rows
        self._batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Rows of a batch of this process; of the one batch of an epoch, as many as there are."""
        return self._batch_size or max(1, -(-self.rows // self._size))

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives, or goes on with, from 0: those that are done."""
        return self._positions.of(self.feed).epoch if self._trains else 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch, in each process."""
        return len(batches(self.rows, self._rank, self._size, self.batch_size))

    @property
    def share_rows(self) -> int:
        """Rows of a whole epoch that this process gets."""
        first, last = share(self.rows, self._rank, self._size)
        return last - first

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the features, then the labels, then the weight."""
        return self._selection.columns

    def whole(self) -> ShareDataset:
        """All rows, in order, in each process: an evaluation, a vocabulary, a count."""
        return self._like(_rank=0, _size=1).in_order()

    def in_order(self) -> ShareDataset:
        """The share of this process, in the order of the feed: an evaluation in parts."""
        return self._like(_view=dataclasses.replace(self._view, shuffle=False), _trains=False)

    def _like(self, **changes: Any) -> ShareDataset:
        result = ShareDataset.__new__(ShareDataset)
        result.__dict__.update(self.__dict__)
        result.__dict__.update(changes)
        return result

    def numpy(self) -> Iterator[Any]:
        """(features, label[, weight]), or the features alone: dicts of arrays, or single ones.

        An array is [rows, ...], of the column's dtype; text is bytes objects. A ragged column is
        (values, row splits[, inner row splits]), a sparse one (indices [n, 2], values, shape).
        """
        return self._epoch(self._arrays, _cut_arrays, self._arranged)

    def torch(self) -> Iterator[Any]:
        """As numpy(), of torch tensors that share the arrays' memory. Raises FeedError for text."""
        import torch

        text = [column.name for column in self.columns if column.dtype == "string"]
        if text:
            raise FeedError(
                f"columns {text} of feed {self.feed!r} are text, of which torch has no tensors:"
                " make numbers of them in pre_train(), leave them out, or use numpy()"
            )

        def tensors(arrays: list[list[np.ndarray]]) -> Any:
            return self._arranged([[torch.from_numpy(part) for part in each] for each in arrays])

        return self._epoch(self._arrays, _cut_arrays, tensors)

    def arrow(self) -> Iterator[pa.Table]:
        """Arrow tables of all columns: of a feed that is not shuffled, without a copy."""
        return self._epoch(self._table, lambda table, a, b: table.slice(a, b - a), lambda it: it)

    def _arrays(self, view: View, epoch: int, start: int, stop: int) -> list[list[np.ndarray]]:
        """Of each column its components, as convert.components() has them."""
        read = iter(self._reader.read(view, epoch, start, stop))
        found: list[list[np.ndarray]] = [[] for _ in self.columns]
        for block in self._selection.blocks:
            if len(block) > 1:
                together = next(read)
                for place, number in enumerate(block):
                    found[number] = [np.ascontiguousarray(together[:, place])]
            else:
                column = self.columns[block[0]]
                parts = 3 if column.sparse else 1 + len(column.shape) * column.is_ragged
                found[block[0]] = [next(read) for _ in range(parts)]
        return found

    def _arranged(self, arrays: list[list[Any]]) -> Any:
        return self._selection.arranged([e[0] if len(e) == 1 else tuple(e) for e in arrays])

    def _table(self, view: View, epoch: int, start: int, stop: int) -> pa.Table:
        return self._reader.table(view, epoch, start, stop)

    def _epoch(
        self,
        read: Callable[[View, int, int, int], T],
        cut: Callable[[T, int, int], T],
        make: Callable[[T], Any],
    ) -> Iterator[Any]:
        """The rest of the epoch under way. Rows are read ahead of the loop, and not counted yet."""
        order = {"shuffle": self._view.shuffle, "seed": self._view.seed}
        position = self._positions.of(self.feed, order) if self._trains else Position()
        takes, start = position.resumed_by(self._size)
        ranges = left(self.rows, takes)
        rows = sum(stop - begin for begin, stop in ranges)
        view = dataclasses.replace(self._view, left=tuple(ranges)) if takes else self._view
        if self._trains and self.rows < self._size:
            raise FeedError(
                f"feed {self.feed!r} has {self.rows} rows for {self._size} processes, each of which"
                " is to have one at least: use fewer --num-workers"
            )
        found = batches(rows, self._rank, self._size, self.batch_size, start)
        taken, step_rows = self.rows - rows + start, self.batch_size * self._size
        several = max(1, self._selection.batches_at_a_time(self.batch_size))
        groups = [found[at : at + several] for at in range(0, len(found), several)]
        contents = _ahead(groups, lambda a, b: read(view, position.epoch, a, b), cut)
        for number, batch in enumerate(contents, 1):
            is_last = number == len(found)
            stop = rows if is_last else start + number * step_rows
            done = self.rows if is_last else self.rows - rows + stop
            if self._trains:
                after = (*takes, (self._size, stop))
                to = Position(position.epoch + 1) if is_last else Position(position.epoch, after)
                self._positions.move(self.feed, to, order)
            self._on_given(
                Given(self.feed, position.epoch, done - taken, done, self.rows, self._trains)
            )
            taken = done
            yield make(batch)


def _cut_arrays(arrays: list[list[np.ndarray]], start: int, stop: int) -> list[list[np.ndarray]]:
    return [[part[start:stop] for part in each] for each in arrays]


def _ahead(
    groups: list[list[Range]], read: Callable[[int, int], T], cut: Callable[[T, int, int], T]
) -> Iterator[T]:
    """Each of the ranges; a group is read at once, and the next one while this one is used."""
    with ThreadPoolExecutor(1, "rows") as pool:
        work = [pool.submit(read, group[0][0], group[-1][1]) for group in groups[:1]]
        for number, group in enumerate(groups):
            content = work.pop().result()
            if number + 1 < len(groups):
                following = groups[number + 1]
                work.append(pool.submit(read, following[0][0], following[-1][1]))
            begin = group[0][0]
            for start, stop in group:
                # one that is alone is not cut: of ragged columns there are parts of other lengths
                yield content if len(group) == 1 else cut(content, start - begin, stop - begin)
