"""The shards that have come of a feed that is being written, as files in the lake.

The driver, who alone writes them, adds a file of what is new at each look, and never writes one
again: what that takes depends on what is new, not on what is there. They are numbered, so a reader
that follows them sees the shards in the order in which they came, up to some point. One that comes
late has few files to read, as there is one more of the shards in each full block of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from tfos.feeding.schema import Manifest, Shard
from tfos.lake.run_directory import RunDirectory, arrived_path, increment_path

# increments that are in one file, too
BLOCK = 64


class ArrivedWriter:
    """Tells the readers of a feed which shards have come. Not thread-safe.

    opened: the feed, without shards; begun already where it is in the lake.
    """

    def __init__(self, lake: RunDirectory, opened: Manifest) -> None:
        self._lake, self._opened = lake, opened
        self._told = 0
        self._number = 0
        self._unwritten: deque[Sequence[Shard]] = deque()
        self._block: list[Shard] = []

    def begin(self) -> None:
        """Makes the feed one that can be read. Raises LakeError."""
        self._lake.write_json(arrived_path(self._opened.feed), self._opened.as_json())

    def tell(self, shards: Sequence[Shard]) -> None:
        """Writes which of all that have come are new.

        Raises LakeError; what is not in the lake then the next call writes, in the same files: a
        file of which that is unknown may have been read.
        """
        if len(shards) > self._told:
            self._unwritten.append(shards[self._told :])
            self._told = len(shards)
        while self._unwritten:
            self._write(self._number, 1, self._unwritten[0])
            self._number += 1
            self._block += self._unwritten.popleft()
            if self._number % BLOCK == 0:
                block, self._block = self._block, []
                self._write(self._number - BLOCK, BLOCK, block)

    def _write(self, first: int, count: int, shards: Sequence[Shard]) -> None:
        path = increment_path(self._opened.feed, first, count)
        self._lake.write_json(path, {"shards": [vars(shard) for shard in shards]})


class ArrivedReader:
    """Follows what an ArrivedWriter tells. Not thread-safe."""

    def __init__(self, lake: RunDirectory, feed: str) -> None:
        self._lake, self._feed = lake, feed
        self._known: Manifest | None = None
        self._number = 0

    def look(self) -> Manifest:
        """What there is of the feed now. Raises LakeError when there is none."""
        if self._known is None:
            self._known = Manifest.from_json(self._lake.read_json(arrived_path(self._feed)))
        shards: list[Shard] = []
        number = self._number
        while count := self._next(number):
            record = self._lake.read_json(increment_path(self._feed, number, count))
            shards += [Shard(**shard) for shard in record["shards"]]
            number += count
        if shards:
            self._known = replace(self._known, shards=(*self._known.shards, *shards))
            self._number = number
        return self._known

    def _next(self, number: int) -> int:
        """How many increments the file that comes next has; 0 when there is none."""
        counts = (BLOCK, 1) if number % BLOCK == 0 else (1,)
        there = (n for n in counts if self._lake.exists(increment_path(self._feed, number, n)))
        return next(there, 0)
