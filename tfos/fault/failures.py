"""What went wrong, as data: one Failure per dead role, and which of them is the root cause."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# How directly a kind of failure points at a cause; the smaller, the more direct. A role that lost
# its peer, or whose Spark job ended, is most often the consequence of another role's failure.
_KINDS = {
    **dict.fromkeys(("exception", "signal", "exit", "hang", "preempted"), 0),
    "start": 1,
    "spark": 2,
    "peer": 3,
}

# a traceback's last line, from a Python worker inside a Spark exception's text
_RAISED = re.compile(
    r"(?!org\.|java\.|scala\.|py4j\.)[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt): "
)
_EMPTY_WORDS = ("An error occurred while calling", "An exception was thrown", "at ")


@dataclass(frozen=True)
class Failure:
    """One role that failed.

    kind: "exception" (raised by user code or ours), "signal" (ended by a signal), "exit" (ended
    with a status and no exception), "hang" (was ended since it made no progress), "preempted" (got
    SIGTERM), "start" (never came up), "spark" (its Spark task ended, or its executor or host),
    "peer" (lost its connection to another role).
    time: seconds since the epoch, on the clock of `host`.
    attempt, life: which launch of the roles, and which process of the task in it; from 1.
    """

    role: str
    index: int
    host: str
    kind: str
    message: str
    traceback: str = ""
    time: float = 0.0
    attempt: int = 0
    life: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"unknown kind of failure {self.kind!r}")

    @property
    def task(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def headline(self) -> str:
        """The first line of its message."""
        return self.message.partition("\n")[0]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def as_error(self) -> dict[str, Any]:
        """What result.json says of a root cause."""
        keys = ("role", "index", "host", "message", "traceback")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Failure:
        return cls(**record)


def root_cause(failures: Iterable[Failure]) -> Failure:
    """The failure that the others follow from: the most direct kind first, then the earliest.

    Raises ValueError when there is no failure.
    """
    return min(failures, key=lambda failure: (_KINDS[failure.kind], failure.time))


def may_be_consequence(failure: Failure) -> bool:
    """Whether waiting a moment may bring a failure that explains this one better."""
    return _KINDS[failure.kind] > 0


def error_message(error: BaseException) -> str:
    """One line that says what happened: of a Spark exception, what the Python worker raised."""
    lines = [line.strip(" \t:") for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    telling = [line for line in lines if not line.startswith(_EMPTY_WORDS)]
    said = (raised[-1:] or telling[:1] or [""])[0]
    name = type(error).__name__
    return said if raised or name == "Py4JJavaError" else f"{name}: {said}"


def describe(failure: Failure, traceback_lines: int = 20) -> str:
    """A failure for a person: what happened and where, then the traceback's tail."""
    lines = [f"{failure.role} {failure.index} on {failure.host}: {failure.message}"]
    tail = failure.traceback.rstrip().splitlines()[-traceback_lines:]
    return "\n".join(lines + ["  " + line for line in tail])
