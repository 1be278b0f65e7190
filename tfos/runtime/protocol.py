"""What a supervisor and the process of its role say to each other, in lines of JSON.

The supervisor writes to the process's stdin: first its StartOrder, then perhaps SaveSoon. The
process answers on the descriptor that CHANNEL_FD names: Alive every second, from its begin on, and
the other messages as things happen; the last one is Outcome or Failed. When stdin closes before
the order came, the run is over.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfos.fault.failures import FailureKind

CHANNEL_FD = "TFOS_CHANNEL"
# the process writes the stacks of its threads to its log
STACKS_SIGNAL = signal.SIGUSR1


# to the process
@dataclass(frozen=True)
class StartOrder:
    """What a process needs to begin.

    addresses: "host:port" by role, in the order of the indices: {"ps": ["host:port"], ...}.
    scratch: a local directory that the supervisor removes at the end.
    secret: the same for all processes of the run, and known to no others.
    """

    role: str
    index: int
    attempt: int
    life: int
    addresses: Mapping[str, list[str]]
    spec: Mapping[str, Any]
    lake: str
    run_id: str
    scratch: str
    secret: str = ""


@dataclass(frozen=True)
class SaveSoon:
    """A checkpoint is wanted, at the next moment that allows one."""


# to the supervisor
@dataclass(frozen=True)
class Alive:
    """The process runs, and no more than that."""


@dataclass(frozen=True)
class IsReady:
    """The others may count on it: its server is up."""


@dataclass(frozen=True)
class Moved:
    """The training goes on; there are no words for it."""


@dataclass(frozen=True)
class Progress:
    """How far the training is: see tfos.training.runner.Reports, and "checkpoints"."""

    progress: Mapping[str, Any]


@dataclass(frozen=True)
class Quiet:
    """The begin, or the end, of what may take long with nothing to report."""

    begins: bool


@dataclass(frozen=True)
class Meets:
    """The begin, or the end, of waiting for other processes, perhaps without signs of life."""

    begins: bool


@dataclass(frozen=True)
class GotSigterm:
    """The process is about to be taken away; a checkpoint is wanted."""


@dataclass(frozen=True)
class Outcome:
    """The process has done its work; of the chief, what goes into the result."""

    outcome: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """Why the process ends."""

    kind: FailureKind
    message: str
    traceback: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FailureKind(self.kind))


Message = Alive | IsReady | Moved | Progress | Quiet | Meets | GotSigterm | Outcome | Failed
Order = StartOrder | SaveSoon
_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*Message.__args__, *Order.__args__)
}


def to_line(said: Message | Order) -> bytes:
    """One line, its end included."""
    fields = {field.name: getattr(said, field.name) for field in dataclasses.fields(said)}
    return json.dumps({"": type(said).__name__, **fields}).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The Message or Order that to_line() was given."""
    record = json.loads(line)
    return _TYPES[record.pop("")](**record)
