"""Sums and gathers over the processes that train in step.

TensorFlow's own allreduce of IndexedSlices takes part in a collective under one key in every turn
of a loop, and a key is for one shape only: it fails as soon as a step has another number of slices
than the last ("Shape mismatch in the collective instance"), as the last step of an epoch and those
with ragged features have. Here the slices of all gradients go as one buffer, whose size is rounded
up to one of a few, and each of these has a key of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# a group and keys of our own, beyond those that TensorFlow counts up from 1
_GROUP_KEY = 1 << 28
_FIRST_KEY = 1 << 28
_STEPS = 16  # a size is at most so many units, a unit a power of two
_NUMBERS = 512


def buffer_size(count: Any) -> tuple[Any, Any]:
    """(the size of a buffer for `count` elements, this size's number), int32 scalars.

    At most an eighth larger than needed. Different sizes have different numbers, below 512.
    """
    count = tf.cast(count, tf.int32)
    # by comparisons, as a logarithm may be wrong by one
    powers = tf.constant([_STEPS << e for e in range(27)], tf.int32)
    exponent = tf.reduce_sum(tf.cast(count > powers, tf.int32))
    unit = tf.bitwise.left_shift(1, exponent)
    steps = tf.maximum((count + unit - 1) // unit, 1)
    return steps * unit, exponent * (_STEPS + 1) + steps


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def all_sum(tensors: Sequence[Any]) -> list[Any]:
    """The sums of tensors or IndexedSlices over the processes. In a replica context.

    The sum of IndexedSlices is the slices of all processes, of which each may have another number,
    and in each step. There are few operations, each of which costs a round trip, one after the
    other: NCCL wants the same order everywhere.
    """
    # a tensor from a loop has no device, which the allreduce needs to know
    dense = [tf.identity(t) for t in tensors if not isinstance(t, tf.IndexedSlices)]
    slices = [t for t in tensors if isinstance(t, tf.IndexedSlices)]
    context = tf.distribute.get_replica_context()
    sums = context.all_reduce(tf.distribute.ReduceOp.SUM, dense) if dense else []
    with tf.control_dependencies(sums):
        gathered = iter(_gather_slices(slices) if slices else [])
    in_order = iter(sums)
    return [next(gathered if isinstance(t, tf.IndexedSlices) else in_order) for t in tensors]


def _gather_slices(slices: list[Any]) -> list[Any]:
    counts = [tf.shape(each.indices)[0] for each in slices]
    if all(each.indices.shape[0] is not None for each in slices):
        of_all, most = None, counts
    else:
        of_all = _gather(tf.stack(counts))
        most = tf.unstack(tf.reduce_max(of_all, axis=0), len(slices))
    parts = [(part, most[n]) for n, s in enumerate(slices) for part in (s.values, s.indices)]
    found: dict[int, Any] = {}
    for dtype in dict.fromkeys(part.dtype for part, _ in parts):
        places = [place for place, (part, _) in enumerate(parts) if part.dtype == dtype]
        with tf.control_dependencies(list(found.values())):
            found.update(zip(places, _gather_rows([parts[p] for p in places]), strict=True))
    gathered = []
    for n, each in enumerate(slices):
        values, indices = found[2 * n], found[2 * n + 1]
        if of_all is not None:
            is_row = tf.reshape(tf.sequence_mask(of_all[:, n], most[n]), [-1])
            values, indices = tf.boolean_mask(values, is_row), tf.boolean_mask(indices, is_row)
        gathered.append(tf.IndexedSlices(values, indices, each.dense_shape))
    return gathered


def _gather_rows(parts: Sequence[tuple[Any, Any]]) -> list[Any]:
    """For each (tensor, rows), all of one dtype: the tensors of all processes, one after the other.

    Each is filled up with zeros to `rows`, which is the same everywhere.
    """
    flat = []
    for tensor, rows in parts:
        missing = tf.scatter_nd([[0, 1]], [rows - tf.shape(tensor)[0]], [tensor.shape.rank, 2])
        flat.append(tf.reshape(tf.pad(tensor, missing), [-1]))
    pieces = tf.split(_gather(tf.concat(flat, 0)), [tf.size(each) for each in flat], axis=1)
    return [
        tf.reshape(piece, [-1, *tensor.shape[1:]])
        for piece, (tensor, _) in zip(pieces, parts, strict=True)
    ]


def _gather(flat: Any) -> Any:
    """[processes, n] of each one's `flat`, of shape [n] and a numeric dtype."""
    strategy = tf.distribute.get_strategy()
    count = tf.size(flat)
    size, number = buffer_size(count)
    gathered = tf.raw_ops.CollectiveGatherV2(
        input=tf.pad(flat, [[0, size - count]]),
        group_size=strategy.num_replicas_in_sync,
        group_key=_GROUP_KEY,
        instance_key=_FIRST_KEY + flat.dtype.as_datatype_enum * _NUMBERS + number,
        ordering_token=[],
        communication_hint="nccl" if tf.config.list_physical_devices("GPU") else "ring",
    )
    return tf.reshape(gathered, [strategy.num_replicas_in_sync, size])[:, :count]
