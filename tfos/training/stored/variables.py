"""The weights of a model in the store: tables of rows, and dense variables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.kv.client import Client
from tfos.kv.optimizers import SGD, Optimizer
from tfos.kv.remote import DenseVariable, RemoteTable
from tfos.tables.embedding import Embedding
from tfos.tables.of_model import stored_layers
from tfos.training.stored.specs import initializer_of, is_known, optimizer_of, seed_of

# a variable that each step pulls as a whole
_MOST_DENSE_BYTES = 64 << 20
# of a table that is put into the store at a time
_PUT_ROWS = 65_536


@dataclass
class Table:
    """A layer's table. held: what its rows in a step are put in; the layer's own weight stands for
    it in Keras.
    """

    layer: Embedding
    remote: RemoteTable
    held: tf.Variable


@dataclass
class Variables:
    """Of one model, as they are in the store. Made alike in all processes.

    tables: by the layer's id. dense: what a step reads and may change, by the variable's id, and
    the variables themselves.
    """

    tables: dict[int, Table] = field(default_factory=dict)
    dense: dict[int, DenseVariable] = field(default_factory=dict)
    weights: list[Any] = field(default_factory=list)

    def held(self) -> list[tuple[Any, tf.Variable]]:
        """Keras's variables of the tables, and what is in their place while a step is made."""
        return [(table.layer.held, table.held) for table in self.tables.values()]

    def pulling(self) -> list[Any]:
        return [self.dense[id(weight)].pulling() for weight in self.weights]

    def values(self, found: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """What pulling() has read, in the shapes of the weights."""
        values = []
        for weight, blocks in zip(self.weights, found, strict=True):
            assert blocks is not None
            values.append(self.dense[id(weight)].value(blocks))
        return values


class Weights:
    """What this process knows of the weights in the store. A layer, or a variable, that several
    models share is there once, under the name that the first of them gives it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        # by id, and with what has the id, so that it is nobody else's
        self._names: dict[int, tuple[Any, str]] = {}
        self._tables: dict[int, Table] = {}
        self._dense: dict[int, DenseVariable] = {}
        self._optimizers: dict[int, Optimizer] = {}
        self._models = itertools.count()

    def name(self, model: keras.Model) -> None:
        """Names what has no name yet. Called in all processes for the same models, which are built,
        in the same order.

        Names are places in the model: Keras's own count what else the process has made.
        """
        layers = [(f"table{n}", layer.held) for n, layer in enumerate(stored_layers(model))]
        weights = [(f"weight{n}/{v.name}", v) for n, v in enumerate(model.variables)]
        new = [(name, v) for name, v in [*layers, *weights] if id(v) not in self._names]
        if new:
            number = next(self._models)
            for name, variable in new:
                self._names.setdefault(id(variable), (variable, f"model{number}/{name}"))

    def tables(self, model: keras.Model) -> list[Table]:
        """Those of its layers. Raises UsageError for a layer of which nothing is in the store."""
        layers = stored_layers(model)
        for layer in layers:
            if id(layer) not in self._tables:
                raise UsageError(
                    f"the rows of layer {layer.name!r} of model {model.name!r} are not in the store"
                    " by that name: give the model, or one that it is a part of, to ctx.fit(),"
                    " evaluate() or predict() first"
                )
        return [self._tables[id(layer)] for layer in layers]

    def of(self, model: keras.Model, optimizers: Mapping[int, Any]) -> Variables:
        """Those of a model that has names; what the store has not yet gets its values from here.

        optimizers: the one that updates each variable, by its id, where that is known. Raises
        UsageError for what the store cannot have.
        """
        found, layers = Variables(), stored_layers(model)
        held = {id(layer.held) for layer in layers}
        metrics = {id(v) for metric in model.metrics for v in metric.variables}
        for layer in layers:
            kind = self._optimizer(model, layer.held, optimizers, is_dense=False)
            if id(layer) not in self._tables:
                self._tables[id(layer)] = self._table(layer, kind)
            found.tables[id(layer)] = self._tables[id(layer)]
        for variable in model.variables:
            if id(variable) in held | metrics or not variable.value.dtype.is_floating:
                continue
            if not np.prod(variable.shape):
                continue
            _check_dense(model, variable)
            kind = self._optimizer(model, variable, optimizers, is_dense=True)
            if id(variable) not in self._dense:
                name = self._names[id(variable)][1]
                self._dense[id(variable)] = self._client.dense(name, variable.numpy(), kind)
            found.dense[id(variable)] = self._dense[id(variable)]
            found.weights.append(variable)
        return found

    def _table(self, layer: Embedding, optimizer: Optimizer) -> Table:
        name, width = self._names[id(layer.held)][1], layer.output_dim
        initializer = layer.embeddings_initializer
        remote = self._client.table(
            name, width, optimizer, initializer_of(initializer, layer.name),
            seed_of(initializer, name), **layer.keeping,
        )  # fmt: skip
        if layer.contents is not None:  # of a model that was loaded
            keys, vectors = layer.contents.keys.numpy(), layer.contents.vectors.numpy()
            for begin in range(0, len(keys), _PUT_ROWS):
                part = slice(begin, begin + _PUT_ROWS)
                remote.put(keys[part], vectors[part])
        rows = tf.Variable(tf.zeros([1, width]), shape=[None, width], trainable=True)
        return Table(layer, remote, rows)

    def _optimizer(
        self, model: keras.Model, variable: Any, optimizers: Mapping[int, Any], is_dense: bool
    ) -> Optimizer:
        known = self._optimizers.get(id(variable))
        if id(variable) in optimizers:
            asked = optimizer_of(optimizers[id(variable)], is_dense)
            if known not in (None, asked):
                raise UsageError(
                    f"variable {variable.path} of model {model.name!r} is to be updated by {asked},"
                    f" but the store has it with {known}, which a model that was fitted, evaluated"
                    " or asked for predictions before had: its slots are of that one; keep the"
                    " optimizer, or make a new model"
                )
        elif known is not None:
            return known
        elif (spec := self._client.spec(self._names[id(variable)][1])) is not None:
            asked = spec.optimizer  # of a fit() that another process knows of
        else:  # what a fit() that comes later will most likely have
            compiled = getattr(model, "optimizer", None)
            asked = optimizer_of(compiled, is_dense) if is_known(compiled) else SGD()
        self._optimizers[id(variable)] = asked
        return asked


def _check_dense(model: keras.Model, variable: Any) -> None:
    size = int(np.prod(variable.shape)) * 4
    if size > _MOST_DENSE_BYTES:
        raise UsageError(
            f"variable {variable.path} of model {model.name!r} has {size >> 20} MiB, and each step"
            f" would pull all of it (of {_MOST_DENSE_BYTES >> 20} at most): use"
            " tfos.layers.Embedding for a table, of which a step pulls the rows that it uses"
        )
    if variable.value.dtype != tf.float32:
        raise UsageError(
            f"variable {variable.path} of model {model.name!r} is {variable.value.dtype.name}: the"
            " store has float32"
        )
