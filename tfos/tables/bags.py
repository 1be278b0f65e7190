"""Bags of ids: what one vector for each is made of, the ids' vectors and their weights."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def combine(combiner: str, table: Any, places: Any, weights: Any, bags: Any, count: Any) -> Any:
    """[count, width] from the vectors table[places], each of them in one of the bags."""
    if weights is None:
        fused = {
            "sum": tf.sparse.segment_sum,
            "mean": tf.sparse.segment_mean,
            "sqrtn": tf.sparse.segment_sqrt_n,
        }[combiner]
        return fused(table, places, bags, num_segments=count)
    sums = tf.math.unsorted_segment_sum(tf.gather(table, places) * weights, bags, count)
    if combiner == "sum":
        return sums
    if combiner == "mean":
        return tf.math.divide_no_nan(sums, tf.math.unsorted_segment_sum(weights, bags, count))
    squares = tf.math.unsorted_segment_sum(weights**2, bags, count)
    return tf.math.divide_no_nan(sums, tf.sqrt(squares))


def of_ids_shape(layer: str, ids: Any, weights: Any, values: Any) -> Any:
    """`values`, of the weights, once these are seen to be of the ids' shape: if ragged, of the
    same rows.
    """
    words = f"layer {layer!r} got ids and weights of different shapes or row splits"
    if not ids.shape.is_compatible_with(weights.shape):
        raise ValueError(f"{words}: {ids.shape} and {weights.shape}")
    if isinstance(ids, tf.RaggedTensor):
        shapes = [tf.cast(each.row_splits, tf.int64) for each in (ids, weights)]
    else:
        shapes = [tf.shape(ids), tf.shape(weights)]
    are_equal = tf.cond(
        tf.size(shapes[0]) == tf.size(shapes[1]),
        lambda: tf.reduce_all(shapes[0] == shapes[1]),
        lambda: tf.constant(False),
    )
    asserted = tf.debugging.Assert(are_equal, [words, *shapes])
    with tf.control_dependencies([asserted] if asserted is not None else []):
        return tf.identity(values)


def equally_ragged(*both: Any) -> list[Any]:
    """Where one of the two is ragged and the other dense, the dense one as a RaggedTensor."""
    ragged = [each for each in both if isinstance(each, tf.RaggedTensor)]
    return [
        tf.RaggedTensor.from_tensor(
            each, ragged_rank=ragged[0].ragged_rank, row_splits_dtype=ragged[0].row_splits.dtype
        )
        if ragged and not isinstance(each, tf.RaggedTensor)
        else each
        for each in both
    ]
