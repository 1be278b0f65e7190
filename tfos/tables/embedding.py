"""An embedding whose table is divided over all parameter servers.

Each shard is a weight of its own, so optimizers need to know nothing of it. See
tfos.tables.division.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.compat.tensorflow import number_of_servers
from tfos.errors import UsageError
from tfos.kv.optimizers import SGD
from tfos.kv.spec import TableSpec
from tfos.tables import stored
from tfos.tables.bags import combine, equally_ragged, of_ids_shape
from tfos.tables.division import (
    MOST_ROWS,
    check_initializer,
    divide,
    hashed,
    initial_values,
    multiplier,
    shard_of,
)
from tfos.tables.rows import lookup

_COMBINERS = (None, "sum", "mean", "sqrtn")


@keras.saving.register_keras_serializable("tfos")
class Embedding(keras.layers.Layer):
    """Vectors of ids, or of bags of ids, from a table that may be divided over parameter servers.

    Each id is looked up once per step, however often a batch has it, and all servers are asked at
    once. Use an optimizer of tfos.optimizers, which updates only the rows that were looked up.

    input_dim: rows of the table. None: any number, made as ids come, in the key-value store of
        --strategy kv or single; ids are then any integers or strings, each with a row of its own
        (strings that have the same hash of 63 bits share one).
    output_dim: elements of a vector.
    combiner: None gives one vector per id: ids of shape [...] give [..., output_dim], ragged ones a
        RaggedTensor. "sum", "mean" and "sqrtn" give one vector per bag, which is the last axis: ids
        of shape [..., k] give [..., output_dim], dense where only the bags are ragged; zeros for an
        empty bag.
        "sqrtn" divides the sum by the square root of the number of ids, or of the sum of the
        weights' squares; "mean" by the number, or the sum of the weights.
    ids: what row an id has. "identity": integers from 0 to input_dim - 1, each with its own row.
        "modulo": any integers, modulo input_dim. "hash": any integers or strings, hashed into
        input_dim buckets (integers with the finalizer of SplitMix64, Steele et al. 2014).
    out_of_range: what "identity" does with another id. "error" ends the training with a message
        that names it; "bucket" gives all of them one row of their own, after the others.
    embeddings_initializer: the initial values, made row by row where the shard is: one of Keras's
        RandomUniform, RandomNormal, TruncatedNormal, Constant, Zeros and Ones, or its name.
    admit_after, expire_secs, expire_below: which rows a table in the store has, see
        tfos.kv.spec.TableSpec: an id gets its row in the so many-th step that has it, and is looked
        up as zeros before; rows that no step has changed for so many seconds, and those whose
        elements are all this near to zero, are removed. A table in variables has all of its rows.

    Raises ValueError for arguments out of range.
    """

    def __init__(
        self,
        input_dim: int | None,
        output_dim: int,
        combiner: str | None = None,
        ids: str = "identity",
        out_of_range: str = "error",
        embeddings_initializer: Any = "uniform",
        admit_after: int = 1,
        expire_secs: float | None = None,
        expire_below: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 < (1 if input_dim is None else input_dim) < MOST_ROWS or output_dim < 1:
            raise ValueError(
                f"input_dim is {input_dim} and output_dim {output_dim}: use at least 1 of each, and"
                f" fewer than {MOST_ROWS:,} rows (hash ids into fewer with ids='hash')"
            )
        _check_one_of("combiner", combiner, _COMBINERS)
        _check_one_of("ids", ids, ("identity", "modulo", "hash"))
        _check_one_of("out_of_range", out_of_range, ("error", "bucket"))
        self.input_dim, self.output_dim, self.combiner = input_dim, output_dim, combiner
        self.ids, self.out_of_range = ids, out_of_range
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        check_initializer(self.embeddings_initializer)
        if input_dim is None and (ids == "modulo" or out_of_range != "error"):
            raise ValueError(
                f"ids is {ids!r} and out_of_range {out_of_range!r}, but a table without a number of"
                " rows has one for each id: leave both out, or give it an input_dim"
            )
        self.keeping: dict[str, Any] = {
            "admit_after": admit_after, "expire_secs": expire_secs, "expire_below": expire_below
        }  # fmt: skip
        TableSpec("table", output_dim, SGD(), **self.keeping)  # raises ValueError for wrong ones
        self._rows = (input_dim or 0) + (ids == "identity" and out_of_range == "bucket")
        # whether rows are in the store; known when it is built
        self.is_stored = input_dim is None
        self.contents: stored.Contents | None = None
        self._row_dtype = tf.int32 if self._rows <= tf.int32.max else tf.int64
        self.supports_jit = False  # XLA has no unique
        self.shards: list[Any] = []

    def build(self, ids_shape: Any = None, weights_shape: Any = None) -> None:
        self.is_stored = self.input_dim is None or stored.are_in_store()
        if self.is_stored:
            # what stands for the rows of a step, see tfos.training.stored
            self.held = self.add_weight(
                name="embeddings", shape=(1, self.output_dim), initializer="zeros", autocast=False
            )
            self.built = True
            return
        bounds = divide(self._rows, number_of_servers())
        table = object()
        for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
            shard = self.add_weight(
                name=f"embeddings_{number}",
                shape=(end - begin, self.output_dim),
                initializer=functools.partial(
                    initial_values, self.embeddings_initializer, begin=begin
                ),
                autocast=False,  # the rows looked up are cast, not the table
            )
            shard.slice_of = table  # for tfos.fault.checkpoint.resharding
            self.shards.append(shard)
        self.built = True

    def call(self, ids: Any, weights: Any = None) -> Any:
        """ids: dense or ragged. weights: as many, with a combiner only; 1 where there are none."""
        if isinstance(ids, tf.SparseTensor):
            raise TypeError(
                f"layer {self.name!r} got a SparseTensor: give it ids as a RaggedTensor,"
                " tf.RaggedTensor.from_sparse(...)"
            )
        if weights is not None and self.combiner is None:
            raise ValueError(
                f"layer {self.name!r} got weights, and has no combiner that could use them: make it"
                " with combiner='sum', 'mean' or 'sqrtn'"
            )
        if self.combiner is not None:
            return self._bags(ids, weights)
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self._vectors(ids.flat_values))
        return self._vectors(ids)

    def keys(self, ids: Any) -> Any:
        """The key of the store that each id has, int64."""
        if self.input_dim is not None:
            return tf.cast(self.rows(ids), tf.int64)
        if self.ids == "hash" or ids.dtype == tf.string:
            return hashed(ids)
        if not ids.dtype.is_integer:
            raise TypeError(
                f"layer {self.name!r} got ids of dtype {ids.dtype.name}: give it integers, or"
                " strings"
            )
        return tf.cast(ids, tf.int64)

    def _read(self, keys: Callable[[], Any]) -> tuple[Any, Any]:
        reader = stored.reader() or self.contents
        if reader is not None:
            return reader.read(self, keys)
        missing = (
            f"the rows of layer {self.name!r} are in the store: train, evaluate and predict by"
            " ctx.fit(), ctx.evaluate() and ctx.predict() under --strategy kv or single; what"
            " ctx.export() has written has them inside"
        )
        if tf.executing_eagerly():
            raise UsageError(missing)
        # Keras calls layers to see the shapes of what they give; whoever computes this is told
        with tf.control_dependencies([tf.debugging.Assert(False, [missing])]):
            return stored.Nothing().read(self, keys)

    def rows(self, ids: Any) -> Any:
        """The row of the table that each id has: integers of the ids' shape.

        Row r is row r - begin of the shard with the rows from `begin` on; see divide().
        """
        if self.ids == "hash":
            return tf.cast(hashed(ids) % self.input_dim, self._row_dtype)
        if not ids.dtype.is_integer:
            raise TypeError(
                f"layer {self.name!r} got ids of dtype {ids.dtype.name}: cast them to an integer,"
                " or make the layer with ids='hash'"
            )
        ids = tf.cast(ids, tf.int64)
        if self.ids == "modulo":
            return self._permuted(ids % self.input_dim)
        is_inside = (ids >= 0) & (ids < self.input_dim)
        rows = self._permuted(ids)
        if self.out_of_range == "bucket":
            return tf.where(is_inside, rows, tf.constant(self.input_dim, self._row_dtype))
        asserted = tf.debugging.Assert(
            tf.reduce_all(is_inside),
            [
                f"layer {self.name!r} has input_dim={self.input_dim} and got the ids",
                tf.boolean_mask(ids, ~is_inside),
                "which are outside: make input_dim larger, or use out_of_range, 'modulo' or 'hash'",
            ],
            summarize=5,
        )
        with tf.control_dependencies([asserted] if asserted is not None else []):
            return tf.identity(rows)

    def _permuted(self, ids: Any) -> Any:
        rows = self.input_dim
        assert rows is not None, "rows() is for tables that have a number of them"
        return tf.cast(ids * multiplier(rows) % rows, self._row_dtype)

    def _bags(self, ids: Any, weights: Any) -> Any:
        if weights is not None and isinstance(weights, tf.RaggedTensor) != isinstance(
            ids, tf.RaggedTensor
        ):
            raise TypeError(f"layer {self.name!r}: make both ids and weights ragged, or neither")
        if isinstance(ids, tf.RaggedTensor):
            if ids.values.shape.rank != 1:
                inner = ids.values
                if weights is not None:
                    weights = of_ids_shape(self.name, ids, weights, weights.values)
                    inner, weights = equally_ragged(inner, weights)
                return ids.with_values(self._bags(inner, weights))
            flat, bags, count = ids.values, ids.value_rowids(), ids.nrows()
            lead: Any = None
        else:
            shape = tf.shape(ids)
            lead, count = shape[:-1], tf.reduce_prod(shape[:-1])
            flat = tf.reshape(ids, [-1])
            bags = tf.repeat(tf.range(count), shape[-1])
        if weights is not None:
            is_ragged = isinstance(weights, tf.RaggedTensor)
            values = weights.values if is_ragged else tf.reshape(weights, [-1])
            weights = of_ids_shape(self.name, ids, weights, values)
            weights = tf.cast(weights, self.compute_dtype)[:, tf.newaxis]
        table, places = self._distinct(flat)
        sums = combine(str(self.combiner), table, places, weights, bags, count)
        if lead is None:
            return tf.ensure_shape(sums, [None, self.output_dim])
        sums = tf.reshape(sums, tf.concat([lead, [self.output_dim]], 0))
        return tf.ensure_shape(sums, [*ids.shape[:-1], self.output_dim])

    def _vectors(self, ids: Any) -> Any:
        table, places = self._distinct(tf.reshape(ids, [-1]))
        vectors = tf.gather(table, places)
        vectors = tf.reshape(vectors, tf.concat([tf.shape(ids), [self.output_dim]], 0))
        return tf.ensure_shape(vectors, [*ids.shape, self.output_dim])

    def _distinct(self, ids: Any) -> tuple[Any, Any]:
        """The vectors of the different ones among `ids`, and which of them is each id's."""
        if self.is_stored:
            found, places = self._read(lambda: self.keys(ids))
            return tf.cast(found, self.compute_dtype), places
        rows, places = tf.unique(self.rows(ids))
        shards = [shard.value for shard in self.shards]
        if len(shards) == 1:
            return tf.cast(lookup(shards[0], rows), self.compute_dtype), places
        owner = tf.cast(shard_of(tf.cast(rows, tf.int64), self._rows, len(shards)), tf.int32)
        order = tf.dynamic_partition(tf.range(tf.size(rows)), owner, len(shards))
        wanted = tf.dynamic_partition(rows, owner, len(shards))
        found = [
            lookup(shard, part - shard_begin)
            for shard, part, shard_begin in zip(
                shards, wanted, divide(self._rows, len(shards)), strict=False
            )
        ]
        return tf.cast(tf.dynamic_stitch(order, found), self.compute_dtype), places

    def save_own_variables(self, store: Any) -> None:
        if self.is_stored:
            if self.contents is not None:
                store["keys"] = self.contents.keys.numpy()
                store["vectors"] = self.contents.vectors.numpy()
            return
        for number, shard in enumerate(self.shards):
            store[str(number)] = shard.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Takes the rows as they come, whatever shards they were saved in."""
        is_stored = "keys" in set(store.keys())
        if self.is_stored:
            keys, vectors = np.empty(0, np.int64), np.empty((0, self.output_dim), np.float32)
            if is_stored:
                keys, vectors = np.asarray(store["keys"]), np.asarray(store["vectors"])
            elif len(store.keys()):  # saved where the table was in variables
                vectors = np.concatenate([store[key] for key in sorted(store.keys(), key=int)])
                keys = np.arange(len(vectors))
            self.contents = stored.Contents(keys, vectors, self.default)
            return
        if is_stored:  # saved where the table was in the store: rows that it lacks are new
            rows = np.concatenate([shard.numpy() for shard in self.shards])
            rows[np.asarray(store["keys"])] = store["vectors"]
            store = {"0": rows}
        saved = [store[key] for key in sorted(store.keys(), key=int)]
        shapes = [tuple(part.shape) for part in saved]
        if sum(rows for rows, _ in shapes) != self._rows or shapes[0][1] != self.output_dim:
            raise ValueError(
                f"layer {self.name!r} has {self._rows} rows of {self.output_dim}, and what was"
                f" saved has the shapes {shapes}"
            )
        bounds = divide(self._rows, len(self.shards))
        for shard, (begin, end) in zip(self.shards, itertools.pairwise(bounds), strict=True):
            pieces, at = [], 0
            for part in saved:
                pieces.append(part[max(begin - at, 0) : max(end - at, 0)])
                at += part.shape[0]
            shard.assign(tf.concat([piece for piece in pieces if len(piece)], 0))

    @property
    def default(self) -> float:
        """What an exported model has in the rows of ids that it does not know: what they were in
        training.
        """
        if self.keeping["admit_after"] > 1:
            return 0.0
        if isinstance(self.embeddings_initializer, keras.initializers.Ones):
            return 1.0
        return float(getattr(self.embeddings_initializer, "value", 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "combiner": self.combiner,
            "ids": self.ids,
            "out_of_range": self.out_of_range,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            **self.keeping,
        }


def _check_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: use one of {choices}")
