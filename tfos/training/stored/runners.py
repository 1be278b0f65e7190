"""The runners of models in the store: of the chief and of a worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.fault.checkpoint.checkpointer import Checkpointer, Elsewhere
from tfos.kv.client import Client
from tfos.training.loop import MOST_UNDER_WAY
from tfos.training.runner import SECTION, Alone, Pending, Section
from tfos.training.step import schedule_of
from tfos.training.stored.coordinator import COUNTED, Coordinator
from tfos.training.stored.journal import Journal, Place
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore
from tfos.training.stored.worker import Worker

# of the time of a chief may be taken by what it leaves for another one: one in so many
_SHARE = 10
# units of each worker that may be over between
_MOST_UNTOLD = 32


class InStore(Alone):
    """Every model is in the store, which other processes serve."""

    coordinator = None
    is_asynchronous = True
    io_device: str | None = None

    def __init__(self, store: ModelStore, workers: int) -> None:
        self.strategy = tf.distribute.get_strategy()
        self.parallelism = workers
        self.store = self.python_store = store

    @property
    def client(self) -> Client:
        return self.store.client

    def know(self, model: keras.Model) -> None:
        """Any model will do."""

    def store_of(self, model: keras.Model) -> ModelStore | None:
        return self.store

    def repeated_rows(self) -> int | None:
        return 0

    def submit(self, function: Any, *args: Any) -> Pending:
        raise AssertionError("workers make units, and submit none")


class ChiefRunner(InStore):
    """Units are made by the workers that ask `units` for them.

    It takes the place of a chief that has left how far it was, where servers and workers are still
    those that it had. Where it has done what cannot be told, all goes back to the checkpoint.
    """

    def __init__(
        self,
        store: ModelStore,
        workers: int,
        units: Coordinator,
        snapshots: Snapshots,
        journal: Journal,
    ) -> None:
        super().__init__(store, workers)
        self._coordinator, self._snapshots, self._journal = units, snapshots, journal
        # numbers of the units that train and are not fetched yet
        self._under_way: set[int] = set()
        # what a chief has left that was here before: units, see Place; and optimizers
        self._behind: list[tuple[int, int]] = []
        self._optimizers: dict[str, Sequence[tuple[int, float | None]]] = {}
        # when it is left again how far the training is, and which unit was the next one then
        self._leaves_next, self._left_at = 0.0, store.next

    @property
    def client(self) -> Client:
        self._journal.give_up()  # what is done with it will be done again
        return super().client

    def continue_from(self, checkpoint: Checkpointer) -> None:
        left = self._journal.take_over()
        if left is None:
            self._snapshots.load(checkpoint.state(SECTION))
            self._coordinator.begin(checkpoint.step, checkpoint.sections)
            return
        place = left.place
        checkpoint.take_over(place.step, place.sections, left.arrays, place.shared)
        self._behind = [(number, rows) for number, rows in place.units]
        self._optimizers = dict(place.optimizers)
        self._coordinator.begin(place.step, place.sections, left.chiefs, left.results)
        self._coordinator.wait_asking(self.parallelism)

    @property
    def parts(self) -> Mapping[str, Callable[[], Elsewhere]]:
        return {SECTION: self._snapshots.save}

    def submit(self, function: Any, *args: Any) -> Pending:
        bounds, order = args
        takes = [list(take) for take in function.takes]
        place = [int(each) for each in bounds]
        pending = self._coordinator.submit(function.name, takes, place, order)
        if function.name not in COUNTED:
            return pending
        self._under_way.add(order.number)
        return _Counted(pending, lambda: self._under_way.discard(order.number))

    def repeated_rows(self) -> int | None:
        again = [*self._coordinator.given_again(), *self._behind]
        self._behind = []
        return self.store.counted([number for number, _ in again]) - sum(rows for _, rows in again)

    def leave(
        self,
        checkpoint: Checkpointer,
        step: int,
        section: str,
        told: Callable[[], tuple[Any, Mapping[str, np.ndarray]]],
        optimizers: Sequence[Any],
        is_due: bool,
    ) -> None:
        begun, made = time.monotonic(), self.store.next - self._left_at
        is_due = is_due or begun > self._leaves_next or made >= _MOST_UNTOLD * self.parallelism
        if not (is_due and self._journal.is_kept):
            return
        state, arrays = told()
        sections, shared = checkpoint.now(section, state)
        if any(not _is_known(name) for name in sections):
            self._journal.give_up()
            return
        self._optimizers[section] = [
            (int(each.iterations), None if schedule_of(each) else float(each.learning_rate))
            for each in optimizers
        ]
        place = Place(step, sections, shared, self._optimizers, self._unsettled())
        self._journal.write(place, section, arrays)
        self._left_at, now = self.store.next, time.monotonic()
        self._leaves_next = now + (_SHARE - 1) * (now - begun)

    def saves(self, section: str) -> None:
        if not _is_known(section):
            self._journal.give_up()

    def _unsettled(self) -> list[tuple[int, int]]:
        """Units of which rows may be applied that are not counted, until the next leave()."""
        most = (MOST_UNDER_WAY + _MOST_UNTOLD) * self.parallelism
        following = range(self.store.next, self.store.next + most)
        again = [*self._coordinator.unsettled, *self._behind]
        counted = [(number, rows) for number, rows in again if number not in self._under_way]
        return [*counted, *((number, 0) for number in (*sorted(self._under_way), *following))]

    def regain(self, section: str, optimizers: Sequence[Any]) -> None:
        for each, (iterations, rate) in zip(
            optimizers, self._optimizers.get(section, ()), strict=False
        ):
            each.iterations.assign(iterations)
            if rate is not None and not schedule_of(each):
                each.learning_rate = rate

    def together(
        self, what: Section, lead: Callable[[], Any], make: Any, tell: Any, told: Any
    ) -> Any:
        if what == "epoch":
            self._journal.give_up()  # a loop of the user's own knows how far it is
        known = self._coordinator.next_result
        if known is not None and what != "fit":
            self._coordinator.skip(what)
            return told(*known)
        return self._coordinator.section(what, lead, tell, self._journal.end_section)


def _is_known(section: str) -> bool:
    """Whether fit makes this section of a checkpoint. What the user's own is of, only he knows."""
    return section == SECTION or section.startswith("fit")


class _Counted:
    """The result of a unit. fetched: called when it has been fetched."""

    def __init__(self, pending: Pending, fetched: Callable[[], None]) -> None:
        self._pending, self._fetched = pending, fetched

    def fetch(self) -> Any:
        value = self._pending.fetch()
        self._fetched()
        return value


class WorkerRunner(InStore):
    def __init__(
        self, store: ModelStore, workers: int, worker: Worker, moved: Callable[[], None]
    ) -> None:
        super().__init__(store, workers)
        self._worker, self._moved = worker, moved

    def continue_from(self, checkpoint: Checkpointer) -> None:
        # the newest one may have come since the chief has begun
        checkpoint.follow(*self._worker.begun())
        for client in self.store.clients:
            client.exchange([])  # from here on the rows are those of this chief, or none

    def together(
        self,
        what: Section,
        lead: Any,
        make: Callable[[Any], Any],
        tell: Any,
        told: Callable[..., Any],
    ) -> Any:
        return told(*self._worker.section(what, make, self._moved))
