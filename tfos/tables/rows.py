"""Lookups of a table's rows, and their gradients, which are slices of these rows and no others."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfos.compat.tensorflow import gradient_recording


def own_copy(variable: Any) -> Any:
    """Of a variable that processes in step mirror, this one's copy, of which rows can be read.

    Others are returned as they are, and so is one that has several copies in this process.
    """
    copies = tf.distribute.get_strategy().experimental_local_results(variable)
    return copies[0] if len(copies) == 1 else variable


def lookup(table: Any, rows: Any) -> Any:
    """table[rows], for rows of which each is there once.

    TensorFlow's own gradient asks the server for the shape of the table, in every step, and a
    tf.custom_gradient reads all of it: each variable used is one of its outputs.
    """
    table = own_copy(table)
    if not isinstance(table, tf.Variable) or isinstance(table, tf.distribute.DistributedValues):
        return tf.gather(table, rows)

    record_operation, stop_recording = gradient_recording()

    def gradient(of_rows: Any) -> list[Any]:
        if isinstance(of_rows, tf.IndexedSlices):
            of_rows = tf.math.unsorted_segment_sum(of_rows.values, of_rows.indices, tf.size(rows))
        slices = tf.IndexedSlices(of_rows, rows, tf.constant(table.shape.as_list()))
        slices.is_distinct = True  # for summed()
        return [slices]

    read = tf.gather(table, rows)
    with stop_recording():
        # where no tape looks on, as in control flow, its gradient is that of TensorFlow's gather
        found = tf.identity(read)
    record_operation("lookup", [found], [table.handle], gradient)
    return found


def summed(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Each row once, with the sum of its slices."""
    if getattr(gradient, "is_distinct", False):  # made by lookup(), or here
        return gradient
    rows, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    slices = tf.IndexedSlices(values, rows, gradient.dense_shape)
    slices.is_distinct = True  # so that nothing is summed twice
    return slices


def used(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The slices that are not zero."""
    is_used = tf.reduce_any(gradient.values != 0, axis=list(range(1, gradient.values.shape.rank)))
    which = tf.where(is_used)[:, 0]
    return tf.IndexedSlices(
        tf.gather(gradient.values, which), tf.gather(gradient.indices, which), gradient.dense_shape
    )
