"""The runner of --strategy single."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfos.tables.of_model import check_rows_stay, tables_without_rows
from tfos.training.runner import SECTION, Alone, LocalRunner

if TYPE_CHECKING:
    from tfos.fault.checkpoint.checkpointer import Checkpointer, Elsewhere
    from tfos.kv.client import Client
    from tfos.training.stored.snapshots import Snapshots
    from tfos.training.stored.store import ModelStore


class SingleRunner(Alone, LocalRunner):
    """Everything in one process; models whose tables have no number of rows in a store of it.

    make: makes the store, and what saves it, when there is such a model.
    """

    def __init__(self, make: Callable[[], tuple[ModelStore, Snapshots]] | None = None) -> None:
        self.strategy = tf.distribute.get_strategy()
        self._make = make
        self._store: ModelStore | None = None
        self._stored: list[keras.Model] = []
        self._snapshots: Snapshots | None = None
        self._begun: Any = None

    @property
    def client(self) -> Client:
        return self._made().client

    def _made(self) -> ModelStore:
        if self._store is None:
            assert self._make is not None, "who makes this runner has no such models"
            self._store, self._snapshots = self._make()
            self._snapshots.load(self._begun)
        return self._store

    def continue_from(self, checkpoint: Checkpointer) -> None:
        self._begun = checkpoint.state(SECTION)
        if self._snapshots is not None:
            self._snapshots.load(self._begun)

    @property
    def parts(self) -> Mapping[str, Callable[[], Elsewhere]]:
        return {SECTION: self._save}

    def _save(self) -> Elsewhere:
        # without a store so far: what the run continues from is still what there is
        return self._snapshots.save() if self._snapshots else (self._begun, lambda: None)

    def know(self, model: keras.Model) -> None:
        check_rows_stay(model)
        if tables_without_rows(model):
            self._keep(model)

    def _keep(self, model: keras.Model) -> None:
        self._made()
        if not any(model is each for each in self._stored):
            self._stored.append(model)

    def store_of(self, model: keras.Model) -> ModelStore | None:
        # a part of a model that is there was not given here itself
        if any(model is each for each in self._stored) or tables_without_rows(model):
            return self._made()
        return None


class AllInStore(SingleRunner):
    """Every model is in the store, as under --strategy kv, but in this process."""

    def know(self, model: keras.Model) -> None:
        self._keep(model)
