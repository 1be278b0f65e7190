"""What went wrong, as data: one Failure per dead role, and which of them is the root cause."""

from __future__ import annotations

import dataclasses
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tfos.compat.texts import (
    EMPTY_WORDS,
    EXECUTOR_LOST,
    KILLED_FOR_MEMORY,
    RAISED_IN_PYTHON,
)

# the distance of what may be an echo: it says more than a lost peer does, and less than all else
_ECHO = 3


class FailureKind(str, Enum):
    """What happened to a role, by what was seen of it."""

    EXCEPTION = "exception"  # raised by user code or ours
    SIGNAL = "signal"  # ended by a signal from outside
    CRASH = "crash"  # ended by a signal that a program brings upon itself, such as SIGSEGV
    EXIT = "exit"  # ended with a status and no exception
    HANG = "hang"  # was ended since it made no progress
    PREEMPTED = "preempted"  # got SIGTERM
    START = "start"  # never came up
    SPARK = "spark"  # its Spark task ended, or its executor or host
    PEER = "peer"  # lost its connection to another role

    __str__ = str.__str__

    @property
    def distance(self) -> int:
        """How directly it points at a cause; the smaller, the more direct.

        A role that lost its peer, or whose Spark job ended, is most often the consequence of
        another role's failure.
        """
        far = {FailureKind.START: 1, FailureKind.SPARK: 2, FailureKind.PEER: 4}
        return far.get(self, 0)

    @property
    def is_deterministic(self) -> bool:
        """Whether the second of the same words is no accident.

        An exception is deterministic, and so is a crash in C, an exit status, or a deadlock. A
        signal comes from outside.
        """
        return self in (
            FailureKind.EXCEPTION,
            FailureKind.CRASH,
            FailureKind.EXIT,
            FailureKind.START,
            FailureKind.HANG,
        )


@dataclass(frozen=True)
class Failure:
    """One role that failed.

    kind: also by its value; ValueError for one that there is not.
    time: seconds since the epoch, on the clock of `host`.
    attempt, life: which launch of the roles, and which process of the task in it; from 1.
    may_echo: whether its role fails in this way, too, when another one has; see Topology.echoes.
    """

    role: str
    index: int
    host: str
    kind: FailureKind
    message: str
    traceback: str = ""
    time: float = 0.0
    attempt: int = 0
    life: int = 0
    may_echo: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FailureKind(self.kind))

    @property
    def task(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def distance(self) -> int:
        """That of its kind; where it may tell of another's end, that of any such end is less."""
        return _ECHO if self.may_echo else self.kind.distance

    @property
    def headline(self) -> str:
        """The first line of its message."""
        return self.message.partition("\n")[0]

    def as_json(self) -> dict[str, Any]:
        record = {**dataclasses.asdict(self), "kind": self.kind.value}
        del record["may_echo"]  # a fact of the topology
        return record

    def as_error(self) -> dict[str, Any]:
        """What result.json says of a root cause."""
        keys = ("role", "index", "host", "message", "traceback")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def of_driver(cls, message: str, traceback: str = "") -> Failure:
        """Of the driver, or of what comes before it, on this machine and now."""
        host = socket.gethostname()
        return cls("driver", 0, host, FailureKind.EXCEPTION, message, traceback, time.time())

    @classmethod
    def from_error(cls, error: Mapping[str, Any]) -> Failure:
        """Of as_error()."""
        return cls(kind=FailureKind.EXCEPTION, **error)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Failure:
        return cls(**record)


# what a program brings upon itself, and what that mostly means
_CRASHES = {
    signal.SIGABRT: "C++ code gave up, and its log says why; memory may have run out",
    signal.SIGSEGV: "C or C++ code used memory that is not its own; its log has the Python stack",
    signal.SIGBUS: "a file that it had mapped became shorter, or a disk or /dev/shm is full",
    signal.SIGILL: "its machine's CPU lacks an instruction that a library was built for",
    signal.SIGFPE: "C or C++ code divided an integer by zero",
}

_MORE_MEMORY = (
    "where it was its container's memory, give the executors more, with --conf"
    " spark.executor.memoryOverhead=SIZE or the role's --ROLE-memory"
)
ADDRESS_SPACE_REMEDY = (
    "Spark sets this limit to spark.executor.pyspark.memory, divided by the executor's cores: raise"
    " that, or leave it out and let the container have the memory by --conf"
    " spark.executor.memoryOverhead=SIZE"
)


def kind_of_exit(status: int) -> FailureKind:
    """Of a process that ended without a word. status: as subprocess has it."""
    if status >= 0:
        return FailureKind.EXIT
    return FailureKind.CRASH if -status in _CRASHES else FailureKind.SIGNAL


def crash_advice(status: int, address_space: int | None) -> str:
    """What may have made a process crash, and what to do about it; "" for other ends.

    address_space: bytes that it was allowed (RLIMIT_AS), None without a limit.
    """
    if kind_of_exit(status) is not FailureKind.CRASH:
        return ""
    if address_space is not None:
        return (
            f"its address space is limited to {address_space / 2**30:.2f} GiB (RLIMIT_AS), of which"
            f" TensorFlow reserves more than it uses: {ADDRESS_SPACE_REMEDY}"
        )
    return _CRASHES[signal.Signals(-status)]


def root_cause(failures: Iterable[Failure]) -> Failure:
    """The failure that the others follow from: the most direct kind first, then the earliest.

    Raises ValueError when there is no failure.
    """
    return min(failures, key=lambda failure: (failure.distance, failure.time))


def may_be_consequence(failure: Failure) -> bool:
    """Whether waiting a moment may bring a failure that explains this one better."""
    return failure.distance > 0


def error_message(error: BaseException) -> str:
    """One line that says what happened: of a Spark exception, what the Python worker raised."""
    text, name = str(error), type(error).__name__
    is_sparks = name == "Py4JJavaError" or any(map(RAISED_IN_PYTHON.match, _lines(text)))
    return said_by(text) if is_sparks else f"{name}: {said_by(text)}"


def said_by(text: str) -> str:
    """The telling line of what Spark says of a failure, or of its exception's text."""
    lines = _lines(text)
    raised = [line for line in lines if RAISED_IN_PYTHON.match(line)]
    telling = [line for line in lines if not line.startswith(EMPTY_WORDS)]
    said = (raised[-1:] or telling[:1] or [""])[0]
    lost = None if raised else EXECUTOR_LOST.search(text)
    if lost is None:
        return said
    advice = f"; {_MORE_MEMORY}" if KILLED_FOR_MEMORY.search(text[lost.start() :]) else ""
    return f"an executor was lost: {lost[1].strip()} ({said}){advice}"


def _lines(text: str) -> list[str]:
    return [line.strip(" \t:") for line in text.splitlines() if line.strip()]


def describe(failure: Failure, traceback_lines: int = 20) -> str:
    """A failure for a person: what happened and where, then the traceback's tail."""
    lines = [f"{failure.role} {failure.index} on {failure.host}: {failure.message}"]
    tail = failure.traceback.rstrip().splitlines()[-traceback_lines:]
    return "\n".join(lines + ["  " + line for line in tail])
