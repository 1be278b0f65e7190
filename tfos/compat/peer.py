"""Which process lost which other one, in TensorFlow's words for a lost connection. Pure.

An error that comes from afar collects a line at each hop, the first one where it happened:

    failed to connect to all addresses; ...
    Additional GRPC error information from remote target /job:ps/replica:0/task:0 while ...
    Additional GRPC error information from remote target /job:worker/replica:0/task:1 while ...

Who tells of this one called worker 1, and worker 1 could not call ps 0. Where ps 0 could not call
worker 1 either, a line for worker 1 comes before that: the two do not reach each other, and worker
1 is still the one that was called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfos.spec.roles import Task

HOP_WORDS = "GRPC error information from remote target "
# at the begin of a line: what came from afar is in the message once more, as one long line
_HOP = re.compile(rf"^Additional {HOP_WORDS}/job:(\w+)/replica:\d+/task:(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Lost:
    """peer: who was lost. by: who lost it; None when that is who tells of it."""

    peer: Task
    by: Task | None


def lost_peer(message: str) -> Lost | None:
    """Of an error's message; None where it names nobody."""
    hops = [Task(role, int(index)) for role, index in _HOP.findall(message)]
    if not hops:
        return None
    called = hops[-1]
    beyond = [hop for hop in hops if hop != called]
    return Lost(beyond[-1], called) if beyond else Lost(called, None)
