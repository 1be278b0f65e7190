"""The gradients of tables, clipped by the norm that the whole table's has.

A divided table has a weight for each shard, and Keras's optimizers clip each weight's gradient by a
norm of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfos.compat.keras import updated_weight
from tfos.tables.rows import summed


def clipped_tables(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """Gradients of the variables that `optimizer`, a Keras optimizer that is built, may clip.

    Those of tfos.layers.Embedding have each row once, with `clipnorm` scaled so that the norm of
    the whole table's is at most that: the norm of each shard's is no larger then, and the
    optimizer leaves it as it is. Others, and all for an optimizer that does not clip, are returned
    as they are.
    """
    gradients = list(gradients)
    if not (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        return gradients
    tables: dict[int, list[int]] = {}
    for number, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
        # the optimizer knows the layer's weight, also where it is given that weight's tf.Variable
        weight = updated_weight(optimizer, variable)
        if gradient is not None and hasattr(weight, "slice_of"):
            tables.setdefault(id(weight.slice_of), []).append(number)
            if isinstance(gradient, tf.IndexedSlices):
                gradients[number] = summed(gradient)
    if optimizer.clipnorm:
        for numbers in tables.values():
            scale = _scale([gradients[number] for number in numbers], optimizer.clipnorm)
            for number in numbers:
                gradients[number] = _times(gradients[number], scale)
    return gradients


def _scale(parts: Sequence[Any], most: float) -> Any:
    """What makes the norm of all parts together, float32 or wider, at most `most`."""
    values = [part.values if isinstance(part, tf.IndexedSlices) else part for part in parts]
    wide = [tf.cast(v, tf.float32) if v.dtype.size < 4 else v for v in values]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(v)) for v in wide]))
    return tf.cast(most, norm.dtype) / tf.maximum(norm, tf.cast(most, norm.dtype))


def _times(part: Any, scale: Any) -> Any:
    if not isinstance(part, tf.IndexedSlices):
        return part * tf.cast(scale, part.dtype)
    scaled = part.values * tf.cast(scale, part.values.dtype)
    slices = tf.IndexedSlices(scaled, part.indices, part.dense_shape)
    slices.is_distinct = True  # for summed()
    return slices
