"""The graphs of a step whose weights are in the store, and what goes in and out of them.

One graph says which keys a batch looks up; the other one makes the step with the rows of these keys
and the dense weights. What a step of the model's own does is traced as it is: layers read from a
tfos.tables.stored.Reader, optimizers apply nothing (scope.Updates).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.kv.client import Client
from tfos.kv.distinct import distinct
from tfos.kv.remote import Request
from tfos.kv.visits import ADD, PUSH
from tfos.tables import stored
from tfos.training.checks import check_others
from tfos.training.step import Step
from tfos.training.stored.batches import Batches
from tfos.training.stored.faster import Faster
from tfos.training.stored.lanes import AtOnce, Lane
from tfos.training.stored.scope import Given, StoredScope, Updates
from tfos.training.stored.store import ModelStore
from tfos.training.sums import check_sums

Keys = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Read:
    """What a step is made of. keys: those that it reads, by layer; places: of the keys of each
    call; rows: of each table; dense: weights.
    """

    batch: Any
    keys: Keys
    places: list[Any]
    rows: list[Any]
    dense: list[Any]


class Graphs:
    """Of one step, on batches that dataset.unpacked() takes.

    batch: the type of one.
    metrics, initial: variables of the model's metrics, and the state that they begin with.
    trains: whether gradients are asked for. adds_up: whether the metrics must keep sums.
    """

    def __init__(
        self,
        step: Step,
        dataset: FeedDataset,
        batch: Any,
        store: ModelStore,
        metrics: Sequence[Any] = (),
        initial: Sequence[np.ndarray] = (),
        trains: bool = False,
        adds_up: bool = False,
    ) -> None:
        self._step, self._store, self._trains, self._adds_up = step, store, trains, adds_up
        self._metrics, self._unpacked = metrics, dataset.unpacked
        self._batch = batch
        optimizers = self._trace_keys(initial)
        self._variables = store.variables(step.model, optimizers)
        self._trace_step(initial)

    def _made(self, batch: Any) -> list[Any]:
        """What the step returns for a batch, flat."""
        returned = self._step.function(self._unpacked(batch))
        if self._step.name == "predict_step":
            return list(keras.tree.flatten(returned))
        return list(self._step.others_of(returned).values())

    def _trace_keys(self, initial: Sequence[np.ndarray]) -> dict[int, Any]:
        """Makes _keys(), which gives the keys of each call of a layer with a table.

        Returns the optimizer that updates each variable, by its id.
        """
        found, updates = stored.Nothing(), Updates()

        def keys(batch: Any) -> list[Any]:
            found.calls.clear()
            state = [tf.constant(value) for value in initial]
            scope = StoredScope(self._step.model, self._metrics, state, is_trial=True)
            with stored.reading(found), updates.noted(), scope:
                self._made(batch)
            for layer, asked in found.calls:
                if asked.graph is not tf.compat.v1.get_default_graph():
                    raise UsageError(
                        f"layer {layer.name!r} is called inside a loop, a condition or a"
                        f" tf.function of model {self._step.model.name!r}, where nobody knows"
                        " beforehand which rows it reads: call it outside, or use --strategy ps"
                    )
            return [tf.reshape(asked, [-1]) for _, asked in found.calls]

        self._keys = tf.function(keys, input_signature=[self._batch], autograph=False)
        self._keys.get_concrete_function()
        self._layers = [layer for layer, _ in found.calls]
        return {id(variable): optimizer for optimizer, variable, _ in updates.found}

    def _trace_step(self, initial: Sequence[np.ndarray]) -> None:
        """Makes _one(), which makes a step."""
        step, variables, metrics, updates = self._step, self._variables, self._metrics, Updates()
        tables = variables.tables.values()
        held = {id(table.layer): table.held for table in tables}
        changed: list[Any] = []

        def one(batch: Any, state: Any, places: Any, rows: Any, dense: Any) -> Any:
            for table, value in zip(tables, rows, strict=True):
                table.held.assign(value)
            for weight, value in zip(variables.weights, dense, strict=True):
                weight.value.assign(value)
            updates.found.clear()
            scope = StoredScope(step.model, metrics, state, variables.held())
            with stored.reading(Given(held, places)), updates.noted(), scope:
                others = self._made(batch)
            check_others(step.model, step.others and dict(zip(step.others, others, strict=True)),
                         state)  # fmt: skip
            after = [scope.get_current_value(variable) for variable in metrics]
            if self._adds_up:
                check_sums(step.model, state, after)
            if not self._trains:
                return after, others, [], []
            changes = scope.changes()
            changed[:] = [variable for variable, _ in changes]
            gradients = [gradient for _, _, gradient in updates.found]
            return after, others, gradients, [difference for _, difference in changes]

        signature = [
            self._batch,
            [tf.TensorSpec(value.shape, value.dtype) for value in initial],
            [tf.TensorSpec([None], tf.int32) for _ in self._layers],
            [tf.TensorSpec([None, table.layer.output_dim], tf.float32) for table in tables],
            [tf.TensorSpec(weight.shape, tf.float32) for weight in variables.weights],
        ]
        self._one = Faster(one, signature)
        self._changed = list(changed)
        self._updated = [(optimizer, variable) for optimizer, variable, _ in updates.found]

    def made(self, read: Read, state: Sequence[Any]) -> tuple[list[Any], ...]:
        """Makes a step: the metrics' state after it, what else it gave; and for writing() the
        gradients, and the differences.
        """
        return tuple(self._one(read.batch, list(state), read.places, read.rows, read.dense))

    def read(self, client: Client, batch: Any) -> Read:
        """Pulls what a step needs."""
        variables = self._variables
        called = [keys.numpy() for keys in self._keys(batch)]
        keys: dict[int, np.ndarray] = {}
        places: list[Any] = [None] * len(called)
        requests: list[Request] = []
        for number, table in variables.tables.items():
            calls = [at for at, layer in enumerate(self._layers) if id(layer) == number]
            parts = [called[at] for at in calls] or [np.empty(0, np.int64)]
            keys[number], place = distinct(parts[0] if len(parts) == 1 else np.concatenate(parts))
            ends = np.cumsum([len(part) for part in parts])[:-1]
            for at, part in zip(calls, np.split(place.astype(np.int32), ends), strict=False):
                places[at] = tf.constant(part)
            requests.append(table.remote.pulling(keys[number]))
        found = client.exchange([*requests, *variables.pulling()])
        rows = [tf.constant(_padded(each)) for each in found[: len(requests)]]
        dense = variables.values(found[len(requests) :])
        return Read(batch, keys, places, rows, [tf.constant(value) for value in dense])

    def writing(
        self,
        keys: Keys,
        gradients: Sequence[Any],
        differences: Sequence[Any],
        rates: Mapping[int, float],
    ) -> list[Request]:
        """What a step pushes. rates: the learning rate of each optimizer, by its id."""
        variables, requests = self._variables, []
        tables = {id(t.layer.held): (keys[key], t.remote) for key, t in variables.tables.items()}
        for (optimizer, variable), gradient in zip(self._updated, gradients, strict=True):
            rate, values = rates[id(optimizer)], gradient.numpy()
            if id(variable) in tables:
                of_table, remote = tables[id(variable)]
                count = len(of_table)
                if count:
                    requests.append(Request(remote, PUSH, of_table, values[:count], rate))
            else:
                requests.append(variables.dense[id(variable)].pushing(values, rate))
        for variable, difference in zip(self._changed, differences, strict=True):
            put = variables.dense[id(variable)].putting(difference.numpy())
            requests.append(Request(put.table, ADD, put.keys, put.values))
        return requests


def _padded(rows: np.ndarray | None) -> np.ndarray:
    """With rows that nobody reads, so that the numbers of rows of most steps are the same."""
    assert rows is not None
    step = 1 << max(0, len(rows).bit_length() - 3)
    padded = np.zeros((max(1, -(-len(rows) // step)) * step, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded


def reads(
    graphs: Graphs, lane: Lane, batches: Batches, bounds: Sequence[int]
) -> Iterator[tuple[Read, int]]:
    """What each step of a unit is made of, and its rows; pulled while the step before is made."""
    epoch, start, stop = bounds
    found = batches.of(epoch, start, stop)

    def following() -> tuple[Read, int] | None:
        batch = next(found, None)
        return batch and (graphs.read(lane.client, batch[0]), batch[1])

    ahead = lane.begin(following)
    while (read := ahead.result()) is not None:
        # where nothing is done aside, the step is made before the next one reads
        if isinstance(lane, AtOnce):
            yield read
            ahead = lane.begin(following)
        else:
            ahead = lane.begin(following)
            yield read
