"""A file of one gzip member whose blocks are compressed side by side.

What is compressed by itself and ends with an empty block at a byte's border (Z_SYNC_FLUSH) may be
followed by more of the kind: together they are one stream (RFC 1951, RFC 1952).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

_BLOCK = 1 << 20
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # fast, of no time and no system
# what is gained by more is a twelfth of the size, and takes twice the time
_LEVEL = 1


class GzipWriter:
    """Writes to `file`, which stays open. Only a block of `with` that ends well makes it whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads)
        self._begun: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._sum = zlib.crc32(b"")
        self._size = 0
        file.write(_HEADER)

    def __enter__(self) -> GzipWriter:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            if kind is None:
                self._compress(zlib.Z_FINISH)
                self._drain(0)
                self._file.write(struct.pack("<II", self._sum, self._size & 0xFFFFFFFF))
        finally:
            self._pool.shutdown(cancel_futures=True)

    def tell(self) -> int:
        return self._size

    def write(self, data: bytes) -> int:
        self._sum = zlib.crc32(data, self._sum)
        self._size += len(data)
        self._block += data
        if len(self._block) >= _BLOCK:
            self._compress(zlib.Z_SYNC_FLUSH)
            self._drain(2 * self._threads)
        return len(data)

    def _compress(self, flush: int) -> None:
        self._begun.append(self._pool.submit(_deflated, bytes(self._block), flush))
        self._block.clear()

    def _drain(self, most: int) -> None:
        """Writes blocks, the first ones first, until at most so many are under way."""
        while len(self._begun) > most:
            self._file.write(self._begun.popleft().result())


def _deflated(data: bytes, flush: int) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(flush)
