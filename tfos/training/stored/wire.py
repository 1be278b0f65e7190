"""What the chief and the workers of --strategy kv say to each other, over a tfos.kv.connection.

A worker first asks what the run continues from (BEGUN). Then it asks for a unit of the section that
its train() has come to (a call of fit, evaluate, predict or run_epoch; they are numbered), with the
result of the last one; the chief answers with a unit, or with what the section gave when it is
over. All are a JSON object, in which a loss may be NaN, and arrays, one after the other as NumPy's
files.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfos.kv import frames
from tfos.kv.frames import FrameError
from tfos.training.stored.orders import Order

# kinds of frames
ASK, UNIT, OVER, WAIT, BEGUN = range(32, 37)
# of a message: a header says its length in 32 bits
MOST_BYTES = (1 << 32) - 1
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Unit:
    """A piece of a section's work. program: "train", "test", ...; takes: see FeedDataset.without.

    bounds: epoch, start, stop.
    """

    number: int
    section: int
    program: str
    takes: Sequence[Sequence[int]]
    bounds: Sequence[int]
    order: Order
    state: Sequence[np.ndarray] = ()

    def facts(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in vars(self).items() if k != "state"},
            "order": asdict(self.order),
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any], state: Sequence[np.ndarray]) -> Unit:
        return cls(**{**facts, "order": Order(**facts["order"]), "state": state})


def pack(facts: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[bytes]:
    """A payload: arrays of numbers or bytes, in order."""
    text = json.dumps(facts).encode()
    sink = io.BytesIO()
    for array in arrays:
        np.save(sink, array, allow_pickle=False)
    return [_LENGTH.pack(len(text)), text, sink.getvalue()]


def unpack(payload: np.ndarray) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Raises FrameError for what pack() cannot have made."""
    data = payload.tobytes()
    if len(data) < _LENGTH.size:
        raise FrameError(f"{len(data)} bytes are no message")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise FrameError(f"a message of {len(data)} bytes that is to have {end}")
    facts, source, arrays = frames.unpack_facts(data[_LENGTH.size : end]), io.BytesIO(data), []
    source.seek(end)
    try:
        while source.tell() < len(data):
            arrays.append(np.load(source, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise FrameError(f"no arrays: {error}") from None
    return facts, arrays
