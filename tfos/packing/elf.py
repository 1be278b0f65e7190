"""What a shared library or a program of Linux says of what it needs: its dynamic section.

The format: System V ABI, chapters "Object Files" and "Dynamic Linking"; the versions of symbols:
Linux Standard Base, "Symbol Versioning".
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2  # types of segments
_NEEDED, _STRINGS, _RPATH, _RUNPATH, _VERSIONS = 1, 5, 15, 29, 0x6FFFFFFE
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")
_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian


@dataclass(frozen=True)
class Needs:
    """libraries: by the names that the loader looks for. has_rpath, has_runpath: whether the file
    says by itself where to look. glibc: the oldest version with all symbols that it wants."""

    libraries: tuple[str, ...]
    has_rpath: bool
    has_runpath: bool
    glibc: tuple[int, int]


def needs(path: Path) -> Needs | None:
    """None where it is no file in the ELF format of this kind of machine. Raises OSError."""
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _needs(data)
            except (struct.error, IndexError):  # cut off, or only named like one
                return None


def _needs(data: mmap.mmap) -> Needs | None:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [
        struct.unpack_from("<IIQQQQQQ", data, table + size * number) for number in range(count)
    ]
    loads = [(start, at, length) for kind, _, at, start, _, length, *_ in segments if kind == _LOAD]
    dynamic = [(at, length) for kind, _, at, _, _, length, *_ in segments if kind == _DYNAMIC]
    if not dynamic:
        return None  # linked statically, or an object file

    def offset(address: int) -> int:
        return next(at + address - start for start, at, n in loads if start <= address < start + n)

    entries = list(struct.iter_unpack("<QQ", data[dynamic[0][0] : sum(dynamic[0])]))
    first = dict(reversed(entries))
    if _STRINGS not in first:
        return None
    strings = offset(first[_STRINGS])

    def text(at: int) -> str:
        return data[strings + at : data.find(b"\0", strings + at)].decode(errors="replace")

    glibc = (0, 0)
    at = offset(first[_VERSIONS]) if _VERSIONS in first else None
    while at is not None:  # of each library that is needed, the versions of its symbols
        _, names, _, to_name, to_next = struct.unpack_from("<HHIII", data, at)
        name_at = at + to_name
        for _ in range(names):
            _, _, _, name, further = struct.unpack_from("<IHHII", data, name_at)
            if version := _GLIBC.match(text(name)):
                glibc = max(glibc, (int(version[1]), int(version[2])))
            name_at += further
        at = at + to_next if to_next else None
    return Needs(
        tuple(text(value) for tag, value in entries if tag == _NEEDED),
        _RPATH in first,
        _RUNPATH in first,
        glibc,
    )
