"""Host: what a role's process offers to its backend."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from tfos.errors import FencedError
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.lake.run_directory import RunDirectory
from tfos.runtime.protocol import (
    GotSigterm,
    IsReady,
    Meets,
    Message,
    Moved,
    Progress,
    Quiet,
    StartOrder,
)
from tfos.spec.job import JobSpec
from tfos.spec.roles import CHIEF, Task

_MOVED_SECS = 1.0


class Wire(Protocol):
    """The process's connection to its supervisor, see tfos.runtime.main."""

    def send(self, message: Message) -> None:
        """Thread-safe."""

    def on_demand(self, save: Callable[[], Callable[[], bool]]) -> None:
        """`save` is called when a checkpoint is wanted, and returns what says whether it is there.

        Called from threads of the wire's own.
        """

    def on_sigterm(self, save: Callable[[], Callable[[], bool]]) -> None:
        """The same, when the process is about to be taken away."""

    def take_sigterm(self) -> None:
        """Makes sure that the signal comes here; in the main thread."""


class Host:
    """Made by tfos in a role's process; used from its main thread, but where it says so.

    task: this process's role and index. attempt, life: which launch of the roles, and which process
    of the task in it; from 1.
    addresses: "host:port" by role, in the order of the indices. The supervisor holds the port of
    this task with SO_REUSEPORT: a server binds it in the same way.
    spec: the run, with the strategy's options in spec.topology.
    lake: the run directory. scratch: a local directory that goes with the process.
    secret: what the run's processes may know each other by; no stranger has it.
    ledger: how many rows were trained on; its state belongs into each checkpoint ("shared").
    store: the run's checkpoints. store.fence raises FencedError when another chief has taken this
    one's place: to be called before anything is written that is the run's.
    reports: what is told of the training; silence for --hang-secs is taken for a hang, where
    train() runs.
    """

    def __init__(self, order: StartOrder, wire: Wire) -> None:
        self.task = Task(order.role, order.index)
        self.attempt, self.life = order.attempt, order.life
        self.addresses: Mapping[str, list[str]] = order.addresses
        self.spec = JobSpec.from_json(order.spec)
        self.lake = RunDirectory(order.lake, order.run_id)
        self.scratch = order.scratch
        self.secret = order.secret.encode()
        self.ledger = Ledger()
        self.reports = WireReports(wire, self.is_chief)
        self.store = CheckpointStore(
            self.lake, self._check_generation, self.is_chief, f"{order.attempt}.{order.life}"
        )
        self._wire = wire
        self._reader: FeedReader | None = None

    @property
    def is_chief(self) -> bool:
        return self.task.role == CHIEF

    def ready(self) -> None:
        """Tells the others that they may count on this process; see Topology.waits_for."""
        self._wire.send(IsReady())

    def reader(self, turns: int = 1) -> FeedReader:
        """What reads the run's feeds here; the same one at each call.

        turns: how many processes take turns in reading the rows of one epoch.
        """
        if self._reader is None:
            self._reader = FeedReader(self.lake, self.scratch, readers=turns)
        return self._reader

    def app(self) -> Any:
        """The user's app, as it was after pre_train()."""
        record = self.lake.app()
        assert record is not None, "the driver writes it before it starts the roles"
        return pickle.loads(record.app)

    def save_on_demand(self, save: Callable[[], Callable[[], bool]]) -> None:
        """For the chief: `save` makes its loop save a checkpoint at the next moment that allows it.

        It is called from another thread, at a SIGTERM to this process or to one that asks for it.
        What it returns says, also from another thread, whether that checkpoint is there.
        """
        self._wire.on_demand(save)
        self._wire.on_sigterm(save)

    def ask_to_save_at_sigterm(self) -> None:
        """For a role whose state is in checkpoints: at a SIGTERM the chief is asked for one."""

        def ask() -> Callable[[], bool]:
            self._wire.send(GotSigterm())  # first: the lake may be slow, or what fails
            newest = self.lake.newest_checkpoint()
            return lambda: self.lake.newest_checkpoint() != newest

        self._wire.on_sigterm(ask)

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Made around waiting for other processes, which may hold Python's lock.

        It may last --hang-secs. It is then told as a connection that failed, which may well do so
        twice, and not as a process that hangs.
        """
        self._wire.send(Meets(True))
        yield
        self._wire.send(Meets(False))

    def take_sigterm_back(self) -> None:
        """From a framework that has a handler of its own for it."""
        self._wire.take_sigterm()

    def _check_generation(self) -> None:
        current = self.lake.generation()
        if current != {"attempt": self.attempt, "life": self.life}:
            raise FencedError(
                f"the chief of attempt {self.attempt}, life {self.life}, may not write checkpoints"
                f" any more: the driver has begun {current}"
            )


class WireReports:
    """Passes on to the supervisor how the training goes on; of several that train the chief speaks.

    stats: of the checkpoints, as saved() was told last.
    """

    def __init__(self, wire: Wire, is_chief: bool) -> None:
        self._wire = wire
        self._is_chief = is_chief
        self._moved = 0.0
        self._depth = 0
        self._last: dict[str, Any] = {}
        self.stats: Mapping[str, float] = {}

    def progress(self, progress: dict[str, Any]) -> None:
        if not self._is_chief:
            self.moved()
            return
        self._last = progress
        self._wire.send(Progress({**progress, "checkpoints": self.stats}))

    def saved(self, stats: Mapping[str, float]) -> None:
        self.stats = stats
        if self._last:  # a loop of the user's own may have no other words
            self.progress(self._last)

    def moved(self) -> None:
        if time.monotonic() - self._moved > _MOVED_SECS:
            self._moved = time.monotonic()
            self._wire.send(Moved())

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        self._depth += 1
        if self._depth == 1:
            self._wire.send(Quiet(True))
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._wire.send(Quiet(False))
