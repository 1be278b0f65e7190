"""Shards of a remote lake on local disk, fetched ahead of their use."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from tfos.errors import LakeError
from tfos.lake.run_directory import RunDirectory

CACHE_BYTES = 4 << 30
_THREADS = 4
_log = logging.getLogger(__name__)


class ShardCache:
    """The shards of `lake` that were used last, in a local directory. Thread-safe.

    Shards of a local lake are read where they are; nothing is copied.

    limit_bytes: what the shards may take, all in all. Above it the least recently used ones are
    removed, but not while they are open: a single larger shard, and what is under way, go beyond.
    What is memory-mapped goes on taking its space until it is unmapped.
    """

    def __init__(self, lake: RunDirectory, directory: str, limit_bytes: int = CACHE_BYTES) -> None:
        self._lake = lake
        self._directory = Path(directory)
        self._limit_bytes = limit_bytes
        # A shard is fetched, and used, by who holds its lock; it is removed only when nobody does.
        # self._lock guards all that follows. It may be taken with a shard's lock, not before one.
        self._lock = threading.Lock()
        self._in_use: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sizes: OrderedDict[str, int] = OrderedDict()  # of what is here, by last use
        self._wanted: deque[str] = deque()
        self._threads = 0

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[str]:
        """The local path of a shard, which is good inside the `with` block.

        It may be memory-mapped there and read for ever. Blocks while the shard is fetched. Raises
        LakeError, or OSError when the local directory cannot be written.
        """
        if self._lake.is_local:
            yield self._lake.path(path)
            return
        with self._lock:
            in_use = self._in_use[path]
        with in_use:
            with self._lock:
                here = path in self._sizes
                if here:
                    self._sizes.move_to_end(path)
            if not here:
                self._fetch(path)
            yield str(self._directory / path)

    def ahead(self, paths: Iterable[str]) -> None:
        """Has shards fetched in background threads, in this order. Does not block.

        A fetch that fails is made again by open(), which raises its error.
        """
        if self._lake.is_local:
            return
        with self._lock:
            self._wanted.extend(path for path in paths if path not in self._wanted)
            starting = max(0, min(_THREADS - self._threads, len(self._wanted)))
            self._threads += starting
        for _ in range(starting):
            # a daemon, so that a process can end in the middle of a fetch
            threading.Thread(target=self._fetch_wanted, name="shards", daemon=True).start()

    def _fetch_wanted(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._threads -= 1
                    return
                path = self._wanted.popleft()
            try:
                with self.open(path):
                    pass
            except (LakeError, OSError) as error:
                _log.warning("shard %s could not be fetched ahead: %s", path, error)

    def _fetch(self, path: str) -> None:
        local = self._directory / path
        part = local.with_name(local.name + ".part")
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lake.download(path, str(part))
            size = part.stat().st_size
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)
        with self._lock:
            self._sizes[path] = size
            for old in list(self._sizes):
                if sum(self._sizes.values()) <= self._limit_bytes:
                    break
                if not self._in_use[old].locked():
                    (self._directory / old).unlink(missing_ok=True)
                    del self._sizes[old]
