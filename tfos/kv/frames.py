"""What goes over the wire: frames, and the sections of a frame that belong to one table each.

A frame is a header of 16 bytes (magic, version, kind, length of the payload, sequence number) and
its payload. A length that cannot be is refused before memory is taken for it. Numbers are little
endian, and nothing is ever unpickled. docs/KV.md has the bytes.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfos.kv.visits import ADD, PUSH, PUT, READS

VERSION = 1
_MAGIC = b"kv"
_HEADER = struct.Struct("<2sBBIQ")
HEADER_BYTES = _HEADER.size
# of a payload; of one before the other side has shown that it has the secret
MOST_BYTES = 256 << 20
MOST_STRANGERS_BYTES = 4096

# requests
HELLO, PROOF, EXCHANGE, TABLE, SCAN, JOIN, TICK, WAIT, LEAVE, STATUS, SAVE, LOAD, SAVED = range(
    1, 14
)
NOTE, NOTED = range(14, 16)
# replies
CHALLENGE, VALUES, FACTS, ROWS, ERROR = range(65, 70)

# a section: table, operation, keys, width of values, learning rate (nan: the optimizer's)
_SECTION = struct.Struct("<IIIId")
_ROWS = struct.Struct("<QQ")
_NOTE = struct.Struct("<I")
_WRITES = (PUSH, ADD, PUT)

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("tfos.kv sends arrays as they are in memory, which is big endian here")


class FrameError(Exception):
    """What came is no frame of this protocol; the connection is of no use any more."""


@dataclass(frozen=True)
class Header:
    kind: int
    length: int
    sequence: int


@dataclass(frozen=True)
class Section:
    """keys: int64 [n]. values: float32 [n, width] for operations that write, else None.

    rate: the learning rate of a push, None for the optimizer's.
    """

    table: int
    operation: int
    keys: np.ndarray
    values: np.ndarray | None = None
    rate: float | None = None

    @property
    def reads(self) -> bool:
        return self.operation in READS


def pack_header(kind: int, length: int, sequence: int = 0) -> bytes:
    return _HEADER.pack(_MAGIC, VERSION, kind, length, sequence)


def unpack_header(data: bytes, most: int = MOST_BYTES) -> Header:
    """most: bytes of payload. Raises FrameError."""
    magic, version, kind, length, sequence = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise FrameError(f"{data[:4]!r} begins no frame of the store")
    if version != VERSION:
        raise FrameError(f"version {version} of the store's protocol: this side has {VERSION}")
    if length > most:
        raise FrameError(f"a payload of {length:,} bytes, of {most:,} at most")
    return Header(kind, length, sequence)


def pack_sections(sections: Sequence[Section]) -> list[Any]:
    """The payload of EXCHANGE, as buffers to be sent one after the other."""
    parts: list[Any] = []
    for section in sections:
        values = section.values
        width = 0 if values is None else values.shape[1]
        rate = float("nan") if section.rate is None else section.rate
        parts.append(
            _SECTION.pack(section.table, section.operation, len(section.keys), width, rate)
        )
        parts.append(np.ascontiguousarray(section.keys, np.int64).data.cast("B"))
        if values is not None and values.size:
            parts.append(np.ascontiguousarray(values, np.float32).data.cast("B"))
            parts.append(bytes(-values.nbytes % 8))
    return [part for part in parts if len(part)]


def unpack_sections(payload: np.ndarray) -> list[Section]:
    """payload: uint8 [n], aligned to 8; the sections have views of it. Raises FrameError."""
    sections, at, end = [], 0, len(payload)
    while at < end:
        if end - at < _SECTION.size:
            raise FrameError(f"{end - at} bytes are left for a section")
        table, operation, count, width, rate = _SECTION.unpack_from(payload.data, at)
        at += _SECTION.size
        if operation not in READS + _WRITES:
            raise FrameError(f"there is no operation {operation}")
        if (width > 0) != (operation in _WRITES):
            raise FrameError(f"operation {operation} has values of width {width}")
        value_bytes = -(-4 * count * width // 8) * 8
        if 8 * count + value_bytes > end - at:
            raise FrameError(f"{end - at} bytes are left for {count:,} keys of width {width}")
        keys = payload[at : at + 8 * count].view(np.int64)
        at += 8 * count
        values = None
        if width:
            values = payload[at : at + 4 * count * width].view(np.float32).reshape(count, width)
            at += value_bytes
        sections.append(Section(table, operation, keys, values, None if rate != rate else rate))
    return sections


def pack_rows(keys: np.ndarray, changed: np.ndarray, values: np.ndarray) -> list[Any]:
    """The payload of ROWS: int64 [n], int64 [n], float32 [n, width]."""
    arrays = [np.ascontiguousarray(array) for array in (keys, changed, values)]
    parts = [array.data.cast("B") for array in arrays if array.size]
    return [_ROWS.pack(len(keys), values.shape[1]), *parts]


def unpack_rows(payload: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """payload: uint8 [n], aligned to 8. Raises FrameError."""
    if len(payload) < _ROWS.size:
        raise FrameError(f"{len(payload)} bytes are no rows")
    count, width = _ROWS.unpack_from(payload.data)
    if len(payload) != _ROWS.size + count * (16 + 4 * width):
        raise FrameError(f"{len(payload)} bytes are not {count:,} rows of width {width}")
    keys, changed, values = np.split(payload[_ROWS.size :], [8 * count, 16 * count])
    return (
        keys.view(np.int64),
        changed.view(np.int64),
        values.view(np.float32).reshape(count, width),
    )


def pack_note(number: int, parts: Sequence[bytes] = ()) -> list[bytes]:
    """The payload of NOTE, with its text in parts, and of NOTED, without."""
    return [_NOTE.pack(number), *parts]


def unpack_note(payload: np.ndarray) -> tuple[int, bytes]:
    """Raises FrameError."""
    data = payload.tobytes()
    if len(data) < _NOTE.size:
        raise FrameError(f"{len(data)} bytes are no note")
    return _NOTE.unpack_from(data)[0], data[_NOTE.size :]


def pack_facts(facts: Any) -> bytes:
    return json.dumps(facts, allow_nan=False).encode()


def unpack_facts(payload: Any) -> dict[str, Any]:
    """A JSON object. Raises FrameError."""
    try:
        facts = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"no JSON: {error}") from None
    if not isinstance(facts, dict):
        raise FrameError(f"a JSON object was expected, not {type(facts).__name__}")
    return facts
