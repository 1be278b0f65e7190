"""Which tensor a column becomes, and how it is made of convert.components()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfos.feeding.schema import Column


def tensor_spec(column: Column) -> Any:
    """The type of a batch of the column: a TensorSpec, RaggedTensorSpec or SparseTensorSpec."""
    dtype = tf.dtypes.as_dtype(column.dtype)
    if column.sparse:
        return tf.SparseTensorSpec([None, column.length], dtype)
    if column.is_ragged:
        rank = len(column.shape)
        return tf.RaggedTensorSpec([None] * (rank + 1), dtype, rank, tf.int64)
    return tf.TensorSpec([None, *column.shape], dtype)


def component_specs(column: Column) -> list[tf.TensorSpec]:
    """The types of convert.components() for a batch of the column."""
    dtype = tf.dtypes.as_dtype(column.dtype)
    if column.sparse:
        return [
            tf.TensorSpec([None, 2], tf.int64),
            tf.TensorSpec([None], dtype),
            tf.TensorSpec([2], tf.int64),
        ]
    if column.is_ragged:
        splits = [tf.TensorSpec([None], tf.int64) for _ in column.shape]
        return [tf.TensorSpec([None], dtype), *splits]
    return [tensor_spec(column)]


def tensor_of(column: Column, components: Sequence[Any], validate: bool = False) -> Any:
    """The tensor of a batch of the column from its components, as component_specs() has them.

    validate: checks row splits as the tensor is used, as befits what comes from outside.
    """
    if column.sparse:
        indices, values, shape = components
        # not the shape as it comes: the number of dimensions is known, and layers want to know it
        return tf.SparseTensor(indices, values, tf.stack([shape[0], column.length]))
    if column.is_ragged:
        values, *splits = components
        return tf.RaggedTensor.from_nested_row_splits(values, splits, validate=validate)
    return components[0]
