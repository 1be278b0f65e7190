"""The runners of models in the store: of the chief and of a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfos.fault.checkpoint.checkpointer import Checkpointer, Elsewhere
from tfos.kv.client import Client
from tfos.training.runner import SECTION, Alone, Pending
from tfos.training.stored.coordinator import Coordinator
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore
from tfos.training.stored.worker import Worker


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
    """Units are made by the workers that ask `units` for them."""

    def __init__(
        self, store: ModelStore, workers: int, units: Coordinator, snapshots: Snapshots
    ) -> None:
        super().__init__(store, workers)
        self._coordinator, self._snapshots = units, snapshots

    def continue_from(self, checkpoint: Checkpointer) -> None:
        self._snapshots.load(checkpoint.state(SECTION))
        self._coordinator.begin(checkpoint.sections)

    @property
    def parts(self) -> Mapping[str, Callable[[], Elsewhere]]:
        return {SECTION: self._snapshots.save}

    def submit(self, function: Any, *args: Any) -> Pending:
        bounds, order = args
        takes = [list(take) for take in function.takes]
        place = [int(each) for each in bounds]
        return self._coordinator.submit(function.name, takes, place, order)

    def repeated_rows(self) -> int | None:
        again = self._coordinator.given_again()
        return sum(self.store.counted(each.unit.order.number) - each.rows for each in again)

    def together(
        self, lead: Callable[[], Any], make: Any, tell: Callable[[Any], Any], told: Any
    ) -> Any:
        return self._coordinator.section(lead, tell)


class WorkerRunner(InStore):
    def __init__(
        self, store: ModelStore, workers: int, worker: Worker, moved: Callable[[], None]
    ) -> None:
        super().__init__(store, workers)
        self._worker, self._moved = worker, moved

    def continue_from(self, checkpoint: Checkpointer) -> None:
        # the newest one may have come since the chief has begun
        checkpoint.follow(self._worker.begun())

    def together(
        self, lead: Any, make: Callable[[Any], Any], tell: Any, told: Callable[..., Any]
    ) -> Any:
        return told(*self._worker.section(make, self._moved))
