"""The weights of a model in the store: tables of rows, and dense variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.kv.client import Client
from tfos.kv.optimizers import SGD
from tfos.kv.remote import DenseVariable, RemoteTable
from tfos.tables.embedding import Embedding, stored_layers
from tfos.training.stored.specs import initializer_of, optimizer_of, seed_of

# a variable that each step pulls as a whole
_MOST_DENSE_BYTES = 64 << 20


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


def make_variables(
    model: keras.Model, prefix: str, client: Client, optimizers: Mapping[int, Any]
) -> Variables:
    """Puts into the store what is not there yet, with the values that it has in this process.

    prefix: of the names of the model's tables in the store.
    optimizers: the one that updates each variable, by its id; others are updated by none.
    Raises UsageError for what the store cannot have.
    """
    found = Variables()
    held = set()
    # by their places in the model: Keras's own names count what else the process has made
    for number, layer in enumerate(stored_layers(model)):
        name = f"{prefix}/table{number}"
        optimizer = optimizers.get(id(layer.held), model.optimizer)
        remote = client.table(
            name,
            layer.output_dim,
            SGD() if optimizer is None else optimizer_of(optimizer, is_dense=False),
            initializer_of(layer.embeddings_initializer, layer.name),
            seed_of(layer.embeddings_initializer, name),
        )
        rows = tf.Variable(
            tf.zeros([1, layer.output_dim]), shape=[None, layer.output_dim], trainable=True
        )
        found.tables[id(layer)] = Table(layer, remote, rows)
        held.add(id(layer.held))
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    for number, variable in enumerate(model.variables):
        if id(variable) in held | metrics or not variable.value.dtype.is_floating:
            continue
        if not np.prod(variable.shape):
            continue
        _check_dense(model, variable)
        optimizer = optimizers.get(id(variable), model.optimizer if variable.trainable else None)
        kind = SGD() if optimizer is None else optimizer_of(optimizer, is_dense=True)
        found.dense[id(variable)] = client.dense(
            f"{prefix}/weight{number}/{variable.name}", variable.numpy(), kind
        )
        found.weights.append(variable)
    return found


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
