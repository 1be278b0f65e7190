"""A table of the store, in the memory of one process.

Any number of threads may call any method at once. Each request is one call of a kernel, which runs
without Python's lock and takes the locks of one stripe at a time (visits.py).
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tfos.kv import rows, visits
from tfos.kv.distinct import as_keys
from tfos.kv.spec import TableSpec

# a stripe is 1/64 of the ring's buckets; the one with most rows is what a request may wait for
STRIPE_BITS = 6
_FIRST_SLOTS = 16
# chunks are cut from slabs, of an eighth of what there is, up to this. NumPy asks for huge pages
# for those of 4 MiB and more, which makes requests to a large table faster
_SLAB_BYTES = 32 << 20

# when this process began, by a clock that is never put back
_BEGUN_SECS = time.time() - time.monotonic()


def now_ms() -> int:
    """Milliseconds since 1970, never less than before in this process."""
    return int((_BEGUN_SECS + time.monotonic()) * 1000)


class Rows(NamedTuple):
    """keys: int64 [n]. changed: milliseconds since 1970, int64 [n]. values: float32 [n, ...]."""

    keys: np.ndarray
    changed: np.ndarray
    values: np.ndarray


class Table:
    """Rows of `spec`, by key, in stripes that are locked one at a time."""

    def __init__(self, spec: TableSpec, stripe_bits: int = STRIPE_BITS) -> None:
        self.spec = spec
        self._bits = stripe_bits
        slots = spec.optimizer.slots(spec.width)
        self.floats = spec.width + len(slots)
        self._slots = np.array(slots, np.float32)
        self._initial = np.array(spec.initializer.numbers(), np.float64)
        self._layout = np.zeros(8, np.int64)
        for field, value in (
            (rows.WIDTH, spec.width),
            (rows.FLOATS, self.floats),
            (rows.STRIDE, rows.HEADER_BYTES + -(-4 * self.floats // 8) * 8),
            (rows.SEED, spec.seed),
            (rows.INITIALIZER, spec.initializer.kind),
            (rows.ADMIT_AFTER, spec.admit_after),
            (rows.OPTIMIZER, spec.optimizer.kind),
            (rows.IS_DENSE, spec.is_dense),
        ):
            self._layout[field] = value
        self._stripes = np.zeros((1 << stripe_bits, rows.STRIPE_WORDS), np.int64)
        self._growing = [threading.Lock() for _ in self._stripes]
        # what the addresses in _stripes point to, for each stripe
        self._indexes: list[np.ndarray] = []
        self._chunks = [np.empty(0, np.int64) for _ in self._stripes]  # addresses
        self._slabs: list[np.ndarray] = []
        self._slab_left, self._cutting = 0, threading.Lock()
        self._sketches: list[np.ndarray] = []
        self._steps, self._stepping = 0, threading.Lock()
        for stripe in self._stripes:
            self._set_up(stripe)

    def _set_up(self, stripe: np.ndarray) -> None:
        index = np.zeros(_FIRST_SLOTS, np.int64)
        self._indexes.append(index)
        stripe[rows.INDEX], stripe[rows.SLOTS], stripe[rows.FREE] = (
            index.ctypes.data,
            len(index),
            -1,
        )
        if self.spec.admit_after > 1:
            share = self.spec.sketch_bytes // len(self._stripes) // rows.SKETCH_LINES
            counters = 1 << max(4, share.bit_length() - 1)
            sketch = np.zeros(rows.SKETCH_LINES * counters, np.uint8)
            self._sketches.append(sketch)
            stripe[rows.SKETCH], stripe[rows.COUNTERS] = sketch.ctypes.data, counters

    def __len__(self) -> int:
        return int(self._stripes[:, rows.LIVE].sum())

    @property
    def steps(self) -> int:
        """How many pushes there were."""
        return self._steps

    @property
    def swept(self) -> int:
        """How many rows have expired."""
        return int(self._stripes[:, rows.SWEPT].sum())

    @property
    def nbytes(self) -> int:
        """What rows, indexes and sketches take, in bytes."""
        return sum(array.nbytes for array in (*self._slabs, *self._indexes, *self._sketches))

    def pull(self, keys: np.ndarray, make: bool = False, out: np.ndarray | None = None) -> Any:
        """The weights of int64 keys [n], float32 [n, width]; make: rows that are not there yet.

        Without, such keys have what they would begin with; or zeros, while they are not admitted.
        out: where they are written, if given: C-contiguous.
        """
        keys = as_keys(keys)
        if out is None:
            out = np.empty((len(keys), self.spec.width), np.float32)
        self._visit(visits.MAKE if make else visits.PULL, keys, out)
        return out

    def push(self, keys: np.ndarray, gradients: np.ndarray, rate: float | None = None) -> None:
        """One update with float32 [n, width]; each key should be there once. A step of the table.

        rate: the learning rate, the optimizer's if None. It raises ValueError if negative.
        """
        optimizer = self.spec.optimizer
        rate = optimizer.learning_rate if rate is None else rate
        if not 0 <= rate < math.inf:
            raise ValueError(f"learning_rate is {rate}: use 0 or more")
        keys, gradients = self._checked(keys, gradients, self.spec.width)
        with self._stepping:
            self._steps += 1
            step = self._steps
        if rate == 0 and optimizer.divides_by_rate:
            return
        numbers = np.array(optimizer.numbers(rate, step), np.float32)
        self._visit(visits.PUSH, keys, gradients, numbers)

    def add(self, keys: np.ndarray, deltas: np.ndarray) -> None:
        """Adds float32 [n, width] to the weights. A key may be there more than once."""
        self._visit(visits.ADD, *self._checked(keys, deltas, self.spec.width))

    def put(self, keys: np.ndarray, weights: np.ndarray) -> None:
        """Makes the rows that are not there, with these weights, float32 [n, width]."""
        self._visit(visits.PUT, *self._checked(keys, weights, self.spec.width))

    def load(self, found: Rows) -> None:
        """Rows as scan() gives them with slots: they take the place of what is there."""
        keys, values = self._checked(found.keys, found.values, self.floats)
        self._visit(visits.LOAD, keys, values, now=np.require(found.changed, np.int64, ["C", "W"]))

    def set_steps(self, steps: int) -> None:
        """After load(): how many pushes the rows have seen."""
        with self._stepping:
            self._steps = steps

    @property
    def stripes(self) -> int:
        return len(self._stripes)

    def scan(self, stripe: int, slots: bool = False, since: int = 0, now: int = 0) -> Rows:
        """A copy of a stripe's rows that were changed at `since`, milliseconds, or later.

        The stripe is locked while it is copied, so each row is whole; others change meanwhile.
        now: milliseconds; scan(since=now) later has all that is changed after this copy.
        """
        width = self.floats if slots else self.spec.width
        words = self._stripes[stripe]
        room = int(words[rows.LIVE])
        while True:
            room += room // 8 + 64
            keys, changed = np.empty(room, np.int64), np.empty(room, np.int64)
            values = np.empty((room, width), np.float32)
            count = rows.copy(words, self._layout, since, now, keys, changed, values)
            if count >= 0:
                return Rows(keys[:count], changed[:count], values[:count])
            room = -count

    @contextlib.contextmanager
    def held(self, now: int) -> Iterator[None]:
        """No row changes in the block, which is to be short: others wait busily.

        now: of a copy that is made in it, as for scan().
        """
        rows.hold(self._stripes, now)
        try:
            yield
        finally:
            rows.let_go(self._stripes)

    def scans(self, slots: bool = False, since: int = 0) -> Iterator[Rows]:
        return (self.scan(stripe, slots, since) for stripe in range(self.stripes))

    def expire(self, now: float | None = None) -> int:
        """Removes the rows that the spec says are to go at `now`, seconds since 1970; how many."""
        if not self.spec.expires:
            return 0
        now = now_ms() / 1000 if now is None else now
        secs, below = self.spec.expire_secs, self.spec.expire_below
        before = 0 if secs is None else int((now - secs) * 1000)
        removed = 0
        for number, stripe in enumerate(self._stripes):
            with self._growing[number]:
                index = np.zeros(len(self._indexes[number]), np.int64)
                removed += rows.sweep(
                    stripe, self._layout, before, -1.0 if below is None else below,
                    index.ctypes.data,
                )  # fmt: skip
                self._indexes[number] = index
        return removed

    def _checked(
        self, keys: np.ndarray, values: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As the kernels take them."""
        keys = as_keys(keys)
        if np.shape(values) != (len(keys), width):
            raise ValueError(
                f"values are {list(np.shape(values))} for {len(keys)} keys of table"
                f" {self.spec.name!r}: use [{len(keys)}, {width}]"
            )
        return keys, np.require(values, np.float32, ["C", "W"])

    def _visit(
        self,
        operation: int,
        keys: np.ndarray,
        values: np.ndarray,
        numbers: np.ndarray | None = None,
        now: np.ndarray | None = None,
    ) -> None:
        hashed, order = np.empty(len(keys), np.uint64), np.empty(len(keys), np.int64)
        begins = np.empty(len(self._stripes) + 1, np.int64)
        visits.group(keys, self._bits, hashed, order, begins)
        at, stuck = begins[:-1].copy(), np.zeros(len(self._stripes), np.uint8)
        now = np.array([now_ms()]) if now is None else now
        numbers = self._slots if numbers is None else numbers
        while visits.visit(
            operation, keys, hashed, order, at, begins[1:], stuck,
            random.randrange(len(self._stripes)), self._stripes, self._layout, self._initial,
            self._slots, numbers, values, now,
        ):  # fmt: skip
            for number in np.flatnonzero(stuck):
                self._grow(int(number), int(begins[number + 1] - at[number]))
            stuck[:] = 0

    def _grow(self, number: int, wanted: int) -> None:
        """Makes room for a row at least, and for as many as are wanted if they are new."""
        stripe = self._stripes[number]
        with self._growing[number]:
            index, chunks = self._indexes[number], self._chunks[number]
            live = int(stripe[rows.LIVE])
            if live >= len(index) // 4 * 3:
                index = np.zeros(max(len(index) * 3 // 2, live * 3 // 2) // 8 * 8 + 8, np.int64)
            if stripe[rows.FREE] < 0 and stripe[rows.USED] >= stripe[rows.CAPACITY]:
                more = max(1, min(wanted, live) // rows.CHUNK_ROWS)
                if (len(chunks) + more) * rows.CHUNK_ROWS > rows.MOST_ROWS:
                    raise MemoryError(
                        f"table {self.spec.name!r} has {live:,} rows in a stripe: use more servers"
                    )
                chunks = np.append(chunks, [self._cut_chunk() for _ in range(more)])
            rows.grow(
                stripe, index.ctypes.data, len(index), chunks.ctypes.data,
                len(chunks) * rows.CHUNK_ROWS,
            )  # fmt: skip
            # nothing points to the old ones now
            self._indexes[number], self._chunks[number] = index, chunks

    def _cut_chunk(self) -> int:
        """The address of a new chunk, which lives as long as the table."""
        words = rows.CHUNK_ROWS * int(self._layout[rows.STRIDE]) // 8
        with self._cutting:
            if self._slab_left < words:
                most = min(_SLAB_BYTES, sum(slab.nbytes for slab in self._slabs) // 8) // 8
                self._slabs.append(np.empty(max(most // words, 1) * words, np.int64))
                self._slab_left = len(self._slabs[-1])
            slab = self._slabs[-1]
            begin = len(slab) - self._slab_left
            self._slab_left -= words
            return slab.ctypes.data + begin * 8
