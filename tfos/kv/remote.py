"""Tables and dense variables as a client sees them; made by Client.table() and Client.dense()."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfos.kv.distinct import as_keys, summed
from tfos.kv.optimizers import Optimizer
from tfos.kv.spec import TableSpec
from tfos.kv.table import Rows
from tfos.kv.visits import ADD, MAKE, PULL, PUSH, PUT, READS

if TYPE_CHECKING:
    from tfos.kv.client import Client

# of a block of a dense variable: large enough that its key and header do not count
_BLOCK_WIDTH = 256


@dataclass(frozen=True)
class Request:
    """What is asked of one table in an exchange.

    keys: int64 [n]. values: float32 [n, width] for what writes. rate: see RemoteTable.push().
    """

    table: RemoteTable
    operation: int
    keys: np.ndarray
    values: np.ndarray | None = None
    rate: float | None = None

    @property
    def reads(self) -> bool:
        return self.operation in READS


class RemoteTable:
    """One table of the store. pull(), push() and the like are an exchange each; pulling(),
    pushing() and the like are for Client.exchange(), which does those of all tables in one.

    numbers: of the table on each server. stripes: how many each server has of it.
    """

    def __init__(
        self, client: Client, spec: TableSpec, numbers: Sequence[int], stripes: Sequence[int]
    ) -> None:
        self.spec = spec
        self.numbers, self.stripes = tuple(numbers), tuple(stripes)
        self._client = client

    def pull(self, keys: Any, make: bool = False) -> np.ndarray:
        """The weights of integers [n], float32 [n, width]. make: rows that are not there yet.

        Without, a key that has no row has what it would begin with, or zeros while it has to be
        pushed more often to get one.
        """
        (found,) = self._client.exchange([self.pulling(keys, make)])
        assert found is not None
        return found

    def push(self, keys: Any, gradients: Any, learning_rate: float | None = None) -> None:
        """One step of the table's optimizer with gradients, float32 [n, width].

        Those of a key that is there more than once are summed up first. Keys without a row get
        one, or come nearer to it. learning_rate: the optimizer's if None.
        """
        self._client.exchange([self.pushing(keys, gradients, learning_rate)])

    def add(self, keys: Any, deltas: Any) -> None:
        """Adds float32 [n, width] to the weights; those of one key are summed up first."""
        self._client.exchange([self.adding(keys, deltas)])

    def put(self, keys: Any, weights: Any) -> None:
        """Makes rows with these weights, float32 [n, width], where there are none yet."""
        self._client.exchange([self.putting(keys, weights)])

    def pulling(self, keys: Any, make: bool = False) -> Request:
        return Request(self, MAKE if make else PULL, as_keys(keys))

    def pushing(self, keys: Any, gradients: Any, learning_rate: float | None = None) -> Request:
        return Request(self, PUSH, *self._summed(keys, gradients), learning_rate)

    def adding(self, keys: Any, deltas: Any) -> Request:
        return Request(self, ADD, *self._summed(keys, deltas))

    def putting(self, keys: Any, weights: Any) -> Request:
        return Request(self, PUT, *self._checked(keys, weights))

    def scan(self, slots: bool = False, since: int = 0) -> Iterator[Rows]:
        """All rows, some at a time, in no order; nothing is changed.

        Each row is whole; what others change meanwhile may be in it or not.
        slots: values have the optimizer's, too. since: only rows that were changed at these
        milliseconds since 1970, of the servers' clocks, or later.
        """
        return self._client.scan(self, slots, since)

    def _checked(self, keys: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
        found, values = as_keys(keys), np.asarray(values, np.float32)
        if values.shape != (len(found), self.spec.width):
            raise ValueError(
                f"values are {list(values.shape)} for {len(found)} keys of table"
                f" {self.spec.name!r}: use [{len(found)}, {self.spec.width}]"
            )
        return found, values

    def _summed(self, keys: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
        return summed(*self._checked(keys, values))


class DenseVariable:
    """A variable of any shape, as rows of a table of its name: blocks of its elements, in order."""

    def __init__(self, table: RemoteTable, shape: Sequence[int]) -> None:
        self._table, self.shape = table, tuple(shape)
        self._size = int(np.prod(self.shape))
        self._keys = np.arange(-(-self._size // table.spec.width))

    @staticmethod
    def spec(name: str, size: int, optimizer: Optimizer) -> TableSpec:
        """Of the table of a variable of `size` elements."""
        if size < 1:
            raise ValueError(f"variable {name!r} has no elements")
        return TableSpec(name, min(size, _BLOCK_WIDTH), optimizer, is_dense=True)

    def pull(self) -> np.ndarray:
        return self.value(self._table.pull(self._keys))

    def push(self, gradient: Any, learning_rate: float | None = None) -> None:
        """One step of the optimizer with a gradient of the variable's shape."""
        self._table.push(self._keys, self._blocks(gradient), learning_rate)

    def pulling(self) -> Request:
        """For Client.exchange(), whose result value() takes."""
        return self._table.pulling(self._keys)

    def pushing(self, gradient: Any, learning_rate: float | None = None) -> Request:
        return self._table.pushing(self._keys, self._blocks(gradient), learning_rate)

    def putting(self, value: Any) -> Request:
        return self._table.putting(self._keys, self._blocks(value))

    def value(self, blocks: np.ndarray) -> np.ndarray:
        """float32 of the variable's shape, of what pulling() has read."""
        return blocks.ravel()[: self._size].reshape(self.shape)

    def _blocks(self, value: Any) -> np.ndarray:
        array = np.asarray(value, np.float32)
        if array.shape != self.shape:
            raise ValueError(
                f"an array of {list(array.shape)} for variable {self._table.spec.name!r} of"
                f" {list(self.shape)}"
            )
        blocks = np.zeros((len(self._keys), self._table.spec.width), np.float32)
        blocks.ravel()[: self._size] = array.ravel()
        return blocks
