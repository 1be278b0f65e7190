"""What a supervisor does next: (state, event) -> actions. Pure; runtime.supervisor does the I/O.

    waiting --the driver wants a next life--> begun --all members there, and those ready that it
    waits for--> started --its process ends--> waiting
       any state --outcome, stop, driver gone--> over

A life is one process of the task. The driver decides when a next one begins; it may do so while
the last one still runs.

(The shape, a machine that is tested with no network around it, is dask/distributed's
worker_state_machine.py.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfos.runtime.protocol import (
    Failed,
    GotSigterm,
    IsReady,
    Message,
    Outcome,
    Progress,
)
from tfos.runtime.roles import addresses
from tfos.spec.roles import CHIEF, Task


# events
@dataclass(frozen=True)
class Members:
    """The tasks that are registered, with their addresses."""

    addresses: Mapping[Task, str]


@dataclass(frozen=True)
class Lives:
    """The life that each task is to be in, as the driver decided.

    hung: whether a role hung, so that what the others are doing is worth knowing.
    """

    lives: Mapping[Task, int]
    hung: bool = False


@dataclass(frozen=True)
class Ready:
    """The tasks that the others may count on, and the life that this is true of."""

    lives: Mapping[Task, int]


@dataclass(frozen=True)
class Said:
    """A message of the process of life `life`."""

    life: int
    message: Message


@dataclass(frozen=True)
class Exited:
    """The process of a life ended; negative for a signal, as subprocess has it."""

    life: int
    status: int


@dataclass(frozen=True)
class Preempted:
    """Some task's process is about to be taken away."""


@dataclass(frozen=True)
class Ended:
    """The run is over for this supervisor: the driver says so, or is gone."""

    why: str


Event = Members | Lives | Ready | Said | Exited | Preempted | Ended


# actions
@dataclass(frozen=True)
class Begin:
    """Begin a life with a new process; end the last one's if it still runs.

    stacks: leave in the log what the last one was doing.
    """

    life: int
    stacks: bool


@dataclass(frozen=True)
class Start:
    """Send the process its start order."""

    addresses: Mapping[str, list[str]]


@dataclass(frozen=True)
class SaveSoon:
    """Ask the process for a checkpoint at the next moment that allows one."""


@dataclass(frozen=True)
class AnnounceReady:
    """Tell the others that they may count on us."""

    life: int


@dataclass(frozen=True)
class AnnouncePreempted:
    """Tell the chief that our process is about to be taken away."""

    life: int


@dataclass(frozen=True)
class PublishProgress:
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class PublishOutcome:
    outcome: Mapping[str, Any]


@dataclass(frozen=True)
class PublishFailure:
    """failure: what the process said of it, or None when it said nothing; with its status."""

    life: int
    failure: Failed | None
    status: int


@dataclass(frozen=True)
class End:
    """End the process if it runs, and leave."""

    why: str


Action = (
    Begin
    | Start
    | SaveSoon
    | AnnounceReady
    | AnnouncePreempted
    | PublishProgress
    | PublishOutcome
    | PublishFailure
    | End
)


@dataclass
class Lifecycle:
    """The state of one supervisor.

    expected: all tasks of the attempt. waits_for: those that must be ready before ours starts.
    is_ready_at_once: whether ours is ready as soon as its process is there, and its last one gone;
    others are when they say so.
    """

    task: Task
    expected: frozenset[Task]
    waits_for: frozenset[Task]
    is_ready_at_once: bool = False
    life: int = 0
    _addresses: dict[Task, str] = field(default_factory=dict)
    _lives: Mapping[Task, int] = field(default_factory=dict)
    _ready: Mapping[Task, int] = field(default_factory=dict)
    _started: bool = False
    _over: bool = False
    _failure: Failed | None = None
    _outcome: Mapping[str, Any] | None = None

    def on(self, event: Event) -> list[Action]:
        if self._over:
            return []
        match event:
            case Members(addresses):
                self._addresses.update(addresses)
                return self._start_if_complete()
            case Lives(lives, hung):
                self._lives = lives
                return [*self._begin_if_wanted(hung), *self._start_if_complete()]
            case Ready(lives):
                self._ready = lives
                return self._start_if_complete()
            case Said(life, message) if life == self.life > 0:
                return self._said(message)
            case Exited(life, status) if life == self.life > 0:
                return self._exited(status)
            case Preempted():
                return [SaveSoon()] if self.task.role == CHIEF and self._started else []
            case Ended(why):
                self._over = True
                return [End(why)]
        return []  # of a process that has been replaced

    def _begin_if_wanted(self, hung: bool) -> list[Action]:
        wanted = self._lives.get(self.task, 0)
        if wanted <= self.life:
            return []
        self.life = wanted
        self._started, self._failure, self._outcome = False, None, None
        return [Begin(wanted, hung), *([AnnounceReady(wanted)] if self.is_ready_at_once else [])]

    def _start_if_complete(self) -> list[Action]:
        if self._started or not self.life or not self.expected <= self._addresses.keys():
            return []
        # one that is about to be replaced still has its last life's node
        if any(self._ready.get(task, 0) != self._lives[task] for task in self.waits_for):
            return []
        self._started = True
        return [Start(addresses({task: self._addresses[task] for task in self.expected}))]

    def _exited(self, status: int) -> list[Action]:
        if status == 0 and self._outcome is not None:
            self._over = True
            told = [PublishOutcome(self._outcome)] if self.task.role == CHIEF else []
            return [*told, End("its process ended")]
        return [PublishFailure(self.life, self._failure, status)]

    def _said(self, message: Message) -> list[Action]:
        match message:
            case Failed():
                # the first: a process that does not end after it may then be ended for a hang
                self._failure = self._failure or message
            case Outcome(outcome):
                self._outcome = outcome
            case Progress(progress):
                return [PublishProgress(progress)]
            case IsReady() if not self.is_ready_at_once:
                return [AnnounceReady(self.life)]
            case GotSigterm():
                return [AnnouncePreempted(self.life)]
        return []
