"""An embedding whose table is divided over all parameter servers.

A table is one sequence of rows, cut into shards of whole blocks, one for each server; a table of a
few blocks has fewer. Each shard is a weight of its own, so optimizers need to know nothing of it.
Ids that follow each other are far apart in the table, so that frequent ones, which in most
vocabularies come first, do not all live on one server. Where a row is, and its initial value,
depend on nothing but the layer's arguments: the same table may be divided over any number of
servers, see tfos.fault.slices.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import keras
import tensorflow as tf

from tfos.errors import TFOSError

_BLOCK = 1024
# products of ids and the multiplier must fit into int64
_MOST_ROWS = 3_000_000_000
_COMBINERS = (None, "sum", "mean", "sqrtn")
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def divide(rows: int, servers: int) -> list[int]:
    """Where each shard of a table begins, and the end of the last one. Pure."""
    blocks = -(-rows // _BLOCK)
    shards = min(servers, blocks)
    return [blocks * shard // shards * _BLOCK for shard in range(shards)] + [rows]


def shard_of(row: Any, rows: int, shards: int) -> Any:
    """The shard of divide() that has each row: int tensors or numbers. Pure."""
    blocks = -(-rows // _BLOCK)
    return ((row // _BLOCK + 1) * shards - 1) // blocks


def multiplier(rows: int) -> int:
    """id * multiplier(rows) % rows is a permutation of the ids, and spreads any range of them.

    (Multiplicative hashing with the golden ratio, Knuth, volume 3, section 6.4.) Pure.
    """
    found = max(1, round(rows * _GOLDEN_RATIO))
    while math.gcd(found, rows) != 1:
        found += 1
    return found


@keras.saving.register_keras_serializable("tfos")
class Embedding(keras.layers.Layer):
    """Vectors of ids, or of bags of ids, from a table that may be divided over parameter servers.

    Each id is looked up once per step, however often a batch has it, and all servers are asked at
    once. Use an optimizer of tfos.optimizers, which updates only the rows that were looked up.

    input_dim: rows of the table. output_dim: elements of a vector.
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

    Raises ValueError for arguments out of range.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        combiner: str | None = None,
        ids: str = "identity",
        out_of_range: str = "error",
        embeddings_initializer: Any = "uniform",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 < input_dim < _MOST_ROWS or output_dim < 1:
            raise ValueError(
                f"input_dim is {input_dim} and output_dim {output_dim}: use at least 1 of each, and"
                f" fewer than {_MOST_ROWS:,} rows (hash ids into fewer with ids='hash')"
            )
        _check_one_of("combiner", combiner, _COMBINERS)
        _check_one_of("ids", ids, ("identity", "modulo", "hash"))
        _check_one_of("out_of_range", out_of_range, ("error", "bucket"))
        self.input_dim, self.output_dim, self.combiner = input_dim, output_dim, combiner
        self.ids, self.out_of_range = ids, out_of_range
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        check_initializer(self.embeddings_initializer)
        self._rows = input_dim + (ids == "identity" and out_of_range == "bucket")
        self._row_dtype = tf.int32 if self._rows <= tf.int32.max else tf.int64
        self.supports_jit = False  # XLA has no unique
        self.shards: list[Any] = []

    def build(self, ids_shape: Any = None, weights_shape: Any = None) -> None:
        extended = tf.distribute.get_strategy().extended
        bounds = divide(self._rows, getattr(extended, "_num_ps", 1))
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
            shard.slice_of = table  # for tfos.fault.slices
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

    def rows(self, ids: Any) -> Any:
        """The row of the table that each id has: integers of the ids' shape.

        Row r is row r - begin of the shard with the rows from `begin` on; see divide().
        """
        if self.ids == "hash":
            return tf.cast(_hash(ids) % self.input_dim, self._row_dtype)
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
        return tf.cast(ids * multiplier(self.input_dim) % self.input_dim, self._row_dtype)

    def _bags(self, ids: Any, weights: Any) -> Any:
        if weights is not None and isinstance(weights, tf.RaggedTensor) != isinstance(
            ids, tf.RaggedTensor
        ):
            raise TypeError(f"layer {self.name!r}: make both ids and weights ragged, or neither")
        if isinstance(ids, tf.RaggedTensor):
            if ids.values.shape.rank != 1:
                inner = weights.values if weights is not None else None
                return ids.with_values(self._bags(ids.values, inner))
            flat, bags, count = ids.values, ids.value_rowids(), ids.nrows()
            lead: Any = None
        else:
            shape = tf.shape(ids)
            lead, count = shape[:-1], tf.reduce_prod(shape[:-1])
            flat = tf.reshape(ids, [-1])
            bags = tf.repeat(tf.range(count), shape[-1])
        if weights is not None:
            words = f"layer {self.name!r} got ids and weights of different shapes or row splits"
            if not ids.shape.is_compatible_with(weights.shape):
                raise ValueError(f"{words}: {ids.shape} and {weights.shape}")
            if lead is None:
                shapes = [tf.cast(each.row_splits, tf.int64) for each in (ids, weights)]
                weights = weights.values
            else:
                shapes = [tf.shape(ids), tf.shape(weights)]
                weights = tf.reshape(weights, [-1])
            are_equal = tf.cond(
                tf.size(shapes[0]) == tf.size(shapes[1]),
                lambda: tf.reduce_all(shapes[0] == shapes[1]),
                lambda: tf.constant(False),
            )
            asserted = tf.debugging.Assert(are_equal, [words, *shapes])
            with tf.control_dependencies([asserted] if asserted is not None else []):
                weights = tf.cast(weights, self.compute_dtype)[:, tf.newaxis]
        table, places = self._distinct(flat)
        sums = self._combine(table, places, weights, bags, count)
        if lead is None:
            return tf.ensure_shape(sums, [None, self.output_dim])
        sums = tf.reshape(sums, tf.concat([lead, [self.output_dim]], 0))
        return tf.ensure_shape(sums, [*ids.shape[:-1], self.output_dim])

    def _combine(self, table: Any, places: Any, weights: Any, bags: Any, count: Any) -> Any:
        """[count, output_dim] from the vectors table[places], each of them in one of the bags."""
        if weights is None:
            fused = {
                "sum": tf.sparse.segment_sum,
                "mean": tf.sparse.segment_mean,
                "sqrtn": tf.sparse.segment_sqrt_n,
            }[str(self.combiner)]
            return fused(table, places, bags, num_segments=count)
        sums = tf.math.unsorted_segment_sum(tf.gather(table, places) * weights, bags, count)
        if self.combiner == "sum":
            return sums
        if self.combiner == "mean":
            return tf.math.divide_no_nan(sums, tf.math.unsorted_segment_sum(weights, bags, count))
        squares = tf.math.unsorted_segment_sum(weights**2, bags, count)
        return tf.math.divide_no_nan(sums, tf.sqrt(squares))

    def _vectors(self, ids: Any) -> Any:
        table, places = self._distinct(tf.reshape(ids, [-1]))
        vectors = tf.gather(table, places)
        vectors = tf.reshape(vectors, tf.concat([tf.shape(ids), [self.output_dim]], 0))
        return tf.ensure_shape(vectors, [*ids.shape, self.output_dim])

    def _distinct(self, ids: Any) -> tuple[Any, Any]:
        """The vectors of the different ones among `ids`, and which of them is each id's."""
        rows, places = tf.unique(self.rows(ids))
        shards = [shard.value for shard in self.shards]
        if len(shards) == 1:
            return tf.cast(_gather(shards[0], rows), self.compute_dtype), places
        owner = tf.cast(shard_of(tf.cast(rows, tf.int64), self._rows, len(shards)), tf.int32)
        order = tf.dynamic_partition(tf.range(tf.size(rows)), owner, len(shards))
        wanted = tf.dynamic_partition(rows, owner, len(shards))
        found = [
            _gather(shard, part - shard_begin)
            for shard, part, shard_begin in zip(
                shards, wanted, divide(self._rows, len(shards)), strict=False
            )
        ]
        return tf.cast(tf.dynamic_stitch(order, found), self.compute_dtype), places

    def save_own_variables(self, store: Any) -> None:
        for number, shard in enumerate(self.shards):
            store[str(number)] = shard.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Takes the rows as they come, whatever shards they were saved in."""
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

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "combiner": self.combiner,
            "ids": self.ids,
            "out_of_range": self.out_of_range,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


def own_copy(variable: Any) -> Any:
    """Of a variable that processes in step mirror, this one's copy, of which rows can be read.

    Others are returned as they are, and so is one that has several copies in this process.
    """
    copies = tf.distribute.get_strategy().experimental_local_results(variable)
    return copies[0] if len(copies) == 1 else variable


def _gather(table: Any, rows: Any) -> Any:
    """table[rows], for rows of which each is there once.

    TensorFlow's own gradient asks the server for the shape of the table, in every step, and a
    tf.custom_gradient reads all of it: each variable used is one of its outputs.
    """
    table = own_copy(table)
    if not isinstance(table, tf.Variable) or isinstance(table, tf.distribute.DistributedValues):
        return tf.gather(table, rows)

    try:
        from tensorflow.python.eager.record import record_operation, stop_recording
    except ImportError as error:
        raise TFOSError(
            f"TensorFlow {tf.__version__} records gradients elsewhere ({error}): use a version that"
            " tfos is tested with, or keras.layers.Embedding"
        ) from error

    def gradient(of_rows: Any) -> list[Any]:
        if isinstance(of_rows, tf.IndexedSlices):
            of_rows = tf.math.unsorted_segment_sum(of_rows.values, of_rows.indices, tf.size(rows))
        slices = tf.IndexedSlices(of_rows, rows, tf.constant(table.shape.as_list()))
        slices.is_distinct = True  # tfos.optimizers need not sum it
        return [slices]

    read = tf.gather(table, rows)
    with stop_recording():
        # where no tape looks on, as in control flow, its gradient is that of TensorFlow's gather
        found = tf.identity(read)
    record_operation("lookup", [found], [table.handle], gradient)
    return found


def check_initializer(initializer: Any) -> None:
    """Raises ValueError for one whose values for a part of a table are not a part of its values."""
    if type(initializer) not in (*_RANDOM, *_CONSTANT):
        known = ", ".join(kind.__name__ for kind in (*_RANDOM, *_CONSTANT))
        raise ValueError(
            f"embeddings_initializer is {type(initializer).__name__}, whose values depend on the"
            f" whole table, which no server has: use one of {known}"
        )


def initial_values(initializer: Any, shape: Any, dtype: Any, begin: int) -> Any:
    """The rows [begin, begin + shape[0]) of a table's initial values, on the device in scope.

    Random ones are a function of the initializer's seed and the element's number: Philox (Salmon et
    al. 2011) can begin at any. begin: a multiple of the block, so that groups of numbers made at a
    time are whole.
    """
    if type(initializer) in _CONSTANT:
        return initializer(shape, dtype)
    draw, groups, arguments = _RANDOM[type(initializer)]
    seed = initializer.seed
    if not isinstance(seed, int):
        raise ValueError("embeddings_initializer has a SeedGenerator: give it an integer as seed")
    low, scale = arguments(initializer)

    @tf.function  # in a graph the sums are made in place
    def values() -> Any:
        drawn = draw(
            shape=tf.constant(shape, tf.int64),
            key=tf.constant([seed % (1 << 64)], tf.uint64),
            counter=tf.constant([begin * shape[1] // 4 * groups, 0], tf.uint64),
            alg=1,
            dtype=tf.float32,
        )
        return tf.cast(drawn * scale + low, dtype)

    return values()


# what draws, the numbers of its counter that it uses for four elements, and (low, scale)
_RANDOM: dict[type, Any] = {
    keras.initializers.RandomUniform: (
        tf.raw_ops.StatelessRandomUniformV2, 1, lambda i: (i.minval, i.maxval - i.minval)
    ),
    keras.initializers.RandomNormal: (
        tf.raw_ops.StatelessRandomNormalV2, 1, lambda i: (i.mean, i.stddev)
    ),
    keras.initializers.TruncatedNormal: (
        tf.raw_ops.StatelessTruncatedNormalV2, 256, lambda i: (i.mean, i.stddev)
    ),
}  # fmt: skip
_CONSTANT = (keras.initializers.Constant, keras.initializers.Zeros, keras.initializers.Ones)


def _hash(ids: Any) -> Any:
    """A number from 0 to 2**63 - 1 for each id, int64."""
    if ids.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(ids, tf.int64.max)
    if not ids.dtype.is_integer:
        raise TypeError(f"ids of dtype {ids.dtype.name} cannot be hashed: cast them to an integer")
    word = tf.cast(ids, tf.uint64) + tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word ^= tf.bitwise.right_shift(word, tf.constant(shift, tf.uint64))
        word *= tf.constant(factor, tf.uint64)
    word ^= tf.bitwise.right_shift(word, tf.constant(31, tf.uint64))
    return tf.cast(tf.bitwise.right_shift(word, tf.constant(1, tf.uint64)), tf.int64)


def _check_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: use one of {choices}")
