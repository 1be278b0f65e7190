"""What a supervisor does next: (state, event) -> actions. Pure; runtime.supervisor does the I/O.

    joining --all members there (a chief: and all servers ready)--> started --child ends--> over
       any state --stop, driver gone, registry gone--> over

(The shape, a machine that is tested with no network around it, is dask/distributed's
worker_state_machine.py.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfos.runtime.roles import Task, cluster


# events
@dataclass(frozen=True)
class Members:
    """The tasks that are registered, with their addresses."""

    addresses: Mapping[Task, str]


@dataclass(frozen=True)
class Ready:
    """The tasks whose TensorFlow server is up."""

    tasks: frozenset[Task]


@dataclass(frozen=True)
class Said:
    """A message of the TF process."""

    message: Mapping[str, Any]


@dataclass(frozen=True)
class Exited:
    """The TF process ended; negative for a signal, as subprocess has it."""

    status: int


@dataclass(frozen=True)
class Ended:
    """The run is over for this supervisor: the driver says so, or is gone."""

    why: str


Event = Members | Ready | Said | Exited | Ended


# actions
@dataclass(frozen=True)
class Start:
    """Send the TF process its start order."""

    cluster: Mapping[str, list[str]]


@dataclass(frozen=True)
class AnnounceReady:
    """Tell the others that our server is up."""


@dataclass(frozen=True)
class PublishProgress:
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class PublishOutcome:
    outcome: Mapping[str, Any]


@dataclass(frozen=True)
class PublishFailure:
    """failure: what the TF process said of it, or None when it said nothing; with its status."""

    failure: Mapping[str, Any] | None
    status: int


@dataclass(frozen=True)
class End:
    """End the TF process if it runs, and leave."""

    why: str


Action = Start | AnnounceReady | PublishProgress | PublishOutcome | PublishFailure | End


@dataclass
class Lifecycle:
    """The state of one supervisor.

    expected: all tasks of the attempt. servers: those that must be ready before the chief starts.
    """

    task: Task
    expected: frozenset[Task]
    servers: frozenset[Task]
    _addresses: dict[Task, str] = field(default_factory=dict)
    _ready: frozenset[Task] = frozenset()
    _started: bool = False
    _over: bool = False
    _failure: Mapping[str, Any] | None = None
    _outcome: Mapping[str, Any] | None = None

    def on(self, event: Event) -> list[Action]:
        if self._over:
            return []
        match event:
            case Members(addresses):
                self._addresses.update(addresses)
                return self._start_if_complete()
            case Ready(tasks):
                self._ready = tasks
                return self._start_if_complete()
            case Said(message):
                return self._said(message)
            case Exited(status):
                self._over = True
                end = End("its process ended")
                if status == 0 and self._outcome is not None:
                    return [PublishOutcome(self._outcome), end]
                return [PublishFailure(self._failure, status), end]
            case Ended(why):
                self._over = True
                return [End(why)]

    def _start_if_complete(self) -> list[Action]:
        waits_for_servers = self.task.role == "chief" and not self.servers <= self._ready
        if self._started or waits_for_servers or not self.expected <= self._addresses.keys():
            return []
        self._started = True
        return [Start(cluster({task: self._addresses[task] for task in self.expected}))]

    def _said(self, message: Mapping[str, Any]) -> list[Action]:
        if "failure" in message:
            self._failure = message["failure"]
        elif "outcome" in message:
            self._outcome = message["outcome"]
        elif "progress" in message:
            return [PublishProgress(message["progress"])]
        elif "ready" in message:
            return [AnnounceReady()]
        return []
