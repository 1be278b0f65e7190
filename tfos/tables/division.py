"""Where the rows of a table are, and what they begin with, in however many shards it is.

A table is one sequence of rows, cut into shards of whole blocks, one for each server; a table of a
few blocks has fewer. Ids that follow each other are far apart in the table, so that frequent ones,
which in most vocabularies come first, do not all live on one server. Where a row is, and its
initial value, depend on nothing but the layer's arguments: the same table may be divided over any
number of servers, see tfos.fault.checkpoint.resharding.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

_BLOCK = 1024
# products of ids and the multiplier must fit into int64
MOST_ROWS = 3_000_000_000
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


def hashed(ids: Any) -> Any:
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
