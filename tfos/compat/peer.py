"""Which process lost which other one, in TensorFlow's words for a lost connection. Pure.

An error that comes from afar collects a line at each hop, the first one where it happened:

    failed to connect to all addresses; ...
    Additional GRPC error information from remote target /job:ps/replica:0/task:0 while ...
    Additional GRPC error information from remote target /job:worker/replica:0/task:1 while ...

Who tells of this one called worker 1, and worker 1 could not call ps 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfos.spec.roles import Task

HOP_WORDS = "GRPC error information from remote target "
_HOP = re.compile(rf"{HOP_WORDS}/job:(\w+)/replica:\d+/task:(\d+)")


@dataclass(frozen=True)
class Lost:
    """peer: who was lost. by: who lost it; None when that is who tells of it."""

    peer: Task
    by: Task | None


def lost_peer(message: str) -> Lost | None:
    """Of an error's message; None where it names nobody."""
    hops = list(dict.fromkeys(Task(role, int(index)) for role, index in _HOP.findall(message)))
    if not hops:
        return None
    return Lost(hops[0], hops[1] if len(hops) > 1 else None)
