"""In which order an epoch visits the rows of a feed, as arithmetic over its manifest. Pure.

An epoch is one sequence of all rows, each exactly once. Unshuffled it is the shards one after the
other. Shuffled, the shards are put in a random order first, and then the rows are permuted inside
windows of consecutive rows, which may span many shards. Both depend on (seed, epoch) alone, so any
process can compute any part of any epoch, and how far an epoch has come is one number: the rows
before it are trained on, the rows from it on are not. In the first epoch of a feed that is still
being written the shards come as they arrive, and each is a window: what arrives later changes
nothing of what was there before.

Processes in step each have a share of the sequence, and go through it from its begin. When others
go on in their place, what is left of the shares, one after the other, is the sequence that they
share. So how far an epoch has come is told by how many processes took how many rows, in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# rows and bytes that one shuffle window holds at most; a reader keeps a few windows in memory
WINDOW_ROWS = 1 << 18
WINDOW_BYTES = 64 << 20


def window_rows(rows: int, size_bytes: int) -> int:
    """Rows in one shuffle window of a feed of `rows` rows that take `size_bytes` in its shards."""
    per_row = max(1, size_bytes // max(1, rows))
    return max(1, min(WINDOW_ROWS, WINDOW_BYTES // per_row))


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of shard number `shard`."""

    shard: int
    start: int
    stop: int


class EpochOrder:
    """The sequence of one epoch. Positions count rows from the start of the epoch.

    window: the rows of a window; or of each shard those of its windows, which end with the shard:
    the shards keep their order then, and more of them may come.
    part: only the rows [first, last) of the shards, one after the other.
    """

    def __init__(
        self,
        shard_rows: Sequence[int],
        window: int | Sequence[int],
        shuffle: bool,
        seed: int,
        epoch: int,
        part: tuple[int, int] | None = None,
    ) -> None:
        self._window = window if isinstance(window, int) else 0
        self._shuffle = shuffle
        self._seed = (seed, epoch)
        count = len(shard_rows)
        self._order = (
            np.random.default_rng([0, seed, epoch]).permutation(count)
            if shuffle and isinstance(window, int)
            else np.arange(count)
        )
        rows = np.asarray(shard_rows, dtype=np.int64)
        begins = np.cumsum(rows) - rows
        first, last = part or (0, int(rows.sum()))
        self._skipped = np.clip(first - begins, 0, rows)
        self._ends = np.cumsum((np.clip(last - begins, 0, rows) - self._skipped)[self._order])
        self.rows = int(self._ends[-1]) if count else 0
        self._borders: np.ndarray | None = None
        if not isinstance(window, int):
            within = zip(begins, begins + rows, window, strict=True)
            # those behind the last one have no rows
            behind = [self.rows] * 3
            self._borders = np.concatenate([*(np.arange(*each) for each in within), behind])

    def slices(self, start: int, stop: int) -> list[Slice]:
        """Where the positions [start, stop) lie before rows are permuted, in order."""
        result = []
        at = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[at])
            begin = int(self._ends[at - 1]) if at else 0
            upto = min(stop, end)
            if upto > start:
                shard = int(self._order[at])
                before = begin - int(self._skipped[shard])
                result.append(Slice(shard, start - before, upto - before))
            start = upto
            at += 1
        return result

    def windows(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The windows that [start, stop) touches, as (window, from, to), both inside the window."""
        if stop > self.rows:
            raise ValueError(f"rows up to {stop} of an epoch of {self.rows}")
        result = []
        while start < stop:
            window = self._window_at(start)
            begin, end = self.window_bounds(window)
            upto = min(stop, end)
            result.append((window, start - begin, upto - begin))
            start = upto
        return result

    def window_bounds(self, window: int) -> tuple[int, int]:
        """The positions [begin, end) of a window; none after the last one."""
        if self._borders is not None:
            return int(self._borders[window]), int(self._borders[window + 1])
        base = window * self._window
        return base, min(base + self._window, self.rows)

    def _window_at(self, position: int) -> int:
        if self._borders is not None:
            return int(np.searchsorted(self._borders, position, side="right")) - 1
        return position // self._window

    def permutation(self, window: int) -> np.ndarray | None:
        """Position in the window -> row of the window, int64 [rows]; None when not shuffled."""
        if not self._shuffle:
            return None
        start, stop = self.window_bounds(window)
        return np.random.default_rng([1, *self._seed, window]).permutation(stop - start)


def share(rows: int, replica: int, replicas: int) -> tuple[int, int]:
    """The positions [start, stop) of an epoch of `rows` rows that are this replica's.

    Replicas train in step: in step number t each takes the next batch of its share. The shares
    differ by one row at most, so the steps of all of them have replicas * batch_size rows but for
    the last, and a replica's rows in that one differ by one at most; they may be none.
    """
    return rows * replica // replicas, rows * (replica + 1) // replicas


def batches(rows: int, replica: int, replicas: int, size: int, start: int = 0) -> list[Range]:
    """This replica's batches, as positions of an epoch, from `start` on; as many as all others get.

    All have `size` rows, but for the last: what is left over of the rows goes there, where some
    replicas get one more than `size` rather than none. Empty ones there are where fewer rows than
    replicas are left, and then all have just one batch.
    start: of full steps, replicas * size rows each, or of others' full steps.
    """
    first, last = share(rows, replica, replicas)
    first, left_over = first + start // replicas, rows - start
    if left_over <= 0:
        return []
    steps = max(1, -(-(left_over - replicas + 1) // (replicas * size)))
    begins = [first + step * size for step in range(steps)]
    return list(zip(begins, [*begins[1:], last], strict=True))


@dataclass(frozen=True)
class Part:
    """The steps at positions [start, stop) of an epoch, or of what is left of it."""

    epoch: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


# positions [start, stop) of a sequence
Range = tuple[int, int]
# (replicas, rows): so many processes in step took so many rows, all together, of those that were
# left, each from the begin of its share
Take = tuple[int, int]


@dataclass(frozen=True)
class Position:
    """How far the epochs of a dataset have come.

    epoch: the one under way, from 0. takes: what was taken of its rows, in turn.
    """

    epoch: int = 0
    takes: tuple[Take, ...] = ()

    def resumed_by(self, replicas: int) -> tuple[tuple[Take, ...], int]:
        """Where so many processes go on: in what is left after these takes, from that position on.

        It is the sequence that the last ones went through if there were as many of them: their
        shares stay what they are, whatever the size of a batch.
        """
        if self.takes and self.takes[-1][0] == replicas:
            return self.takes[:-1], self.takes[-1][1]
        return self.takes, 0


def left(rows: int, takes: Sequence[Take]) -> list[Range]:
    """What is left of an epoch of `rows` rows after `takes`: positions, in ascending order.

    A take that ends before what there was is one of full steps: a multiple of its replicas.
    """
    ranges = [(0, rows)] if rows else []
    for replicas, taken in takes:
        count, each = sum(stop - start for start, stop in ranges), -(-taken // replicas)
        shares = [share(count, replica, replicas) for replica in range(replicas)]
        ranges = [
            piece
            for first, last in shares
            for piece in within(ranges, min(first + each, last), last)
        ]
    return ranges


def within(ranges: Sequence[Range], start: int, stop: int) -> list[Range]:
    """The positions [start, stop) of the sequence that `ranges` make, one after the other."""
    found = []
    before = 0
    for first, last in ranges:
        begin = max(first, first + start - before)
        end = min(last, first + stop - before)
        if begin < end:
            found.append((begin, end))
        before += last - first
    if stop > before:
        raise ValueError(f"rows up to {stop} of the {before} that are left of an epoch")
    return found
