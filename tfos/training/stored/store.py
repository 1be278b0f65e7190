"""What the programs of one process share: its client of the store, and names in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import keras
import numpy as np

from tfos.kv.client import Client
from tfos.kv.optimizers import SGD
from tfos.kv.remote import Request
from tfos.kv.visits import ADD
from tfos.training.step import Step
from tfos.training.stored.lanes import AtOnce, Lane
from tfos.training.stored.variables import Table, Variables, Weights

T = TypeVar("T")
# counts the rows of each unit's steps, as they are applied; see counted()
_COUNTS, _COUNTS_SECS = "tfos/rows", 24 * 3600.0


class ModelStore:
    """The models of this process in the store.

    waits: whether steps wait for each other (--staleness).
    ahead, behind: where rows are pulled and gradients pushed, beside a step.
    first_unit: a number that no unit of the run had before; None where no unit is made twice.
    """

    def __init__(self, client: Client, waits: bool = False, first_unit: int | None = None) -> None:
        self.client, self._waits, self._first = client, waits, first_unit
        self.ahead: Lane = AtOnce(client)
        self.behind: Lane = AtOnce(client)
        self._models: WeakKeyDictionary[keras.Model, Variables] = WeakKeyDictionary()
        self._weights = Weights(client)
        # the number of the next unit
        self.next = first_unit or 0
        self._counts: Any = None

    @property
    def clients(self) -> list[Client]:
        return list(
            {
                id(each): each for each in (self.client, self.ahead.client, self.behind.client)
            }.values()
        )

    def name(self, model: keras.Model) -> None:
        """See Weights.name(); called for each model that is given to ctx."""
        self._weights.name(model)

    def variables(self, model: keras.Model, optimizers: Mapping[int, Any]) -> Variables:
        """Those of a model, put into the store if they are not there; see Weights.of()."""
        self._models[model] = self._weights.of(model, optimizers)
        return self._models[model]

    def known(self, model: keras.Model) -> Variables | None:
        """Those of a model that is in the store."""
        return self._models.get(model)

    def tables(self, model: keras.Model) -> list[Table]:
        """Those of its layers, whichever model has brought them here; see Weights.tables()."""
        return self._weights.tables(model)

    def refresh(self, model: keras.Model) -> None:
        """Gives the model's dense weights in this process the values that the store has."""
        found = self.known(model)
        if found is None:
            return
        read = self.client.exchange(found.pulling())
        for weight, value in zip(found.weights, found.values(read), strict=True):
            weight.assign(value)

    def made(self, step: Step, make: Callable[[], T]) -> T:
        """What make() made of the step the first time: its graphs are those of all its units."""
        if not step.graphs:
            step.graphs.append(make())
        found: T = step.graphs[0]
        return found

    def next_unit(self) -> int:
        self.next += 1
        return self.next - 1

    def counting(self, unit: int, rows: int) -> list[Request]:
        """That so many rows of a unit are applied."""
        if self._first is None:
            return []
        values = np.array([[rows]], np.float32)
        return [Request(self._table(), ADD, np.array([unit], np.int64), values)]

    def counted(self, units: Sequence[int]) -> int:
        """Rows that were applied in the name of units, by whichever workers had them."""
        return int(self._table().pull(units).sum()) if units else 0

    def _table(self) -> Any:
        if self._counts is None:
            self._counts = self.client.table(_COUNTS, 1, SGD(), expire_secs=_COUNTS_SECS)
        return self._counts

    @contextlib.contextmanager
    def in_step(self, trains: bool) -> Iterator[None]:
        """Made around a unit: others wait for this process meanwhile, if steps wait at all."""
        if not (trains and self._waits):
            yield
            return
        self.client.join()
        try:
            yield
        finally:
            self.client.leave()

    def clock(self) -> None:
        """After a step: waits until the next one may begin."""
        if self._waits:
            self.client.clock()
