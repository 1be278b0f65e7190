"""What Keras does otherwise while a step is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfos.compat.keras import apply_gradients, replaced, variable_class
from tfos.tables.clipping import clipped_tables
from tfos.tables.rows import own_copy
from tfos.training.collectives import all_sum

# losses that divide by the rows of a batch, so that weighted means of them are means
MEANS = ("sum_over_batch_size", "mean")
_OPTIMIZER = "backend.tensorflow.optimizer:TFOptimizer"
_BASE_OPTIMIZER = "optimizers.base_optimizer:BaseOptimizer"


@contextlib.contextmanager
def summed_gradients() -> Iterator[None]:
    """Keras's optimizers apply the sum of all processes' gradients; it is clipped as a whole.

    Keras would clip each process's own, and sum up with an allreduce that takes no slices whose
    number varies.
    """

    def apply(self: Any, gradients: Any, variables: Any) -> None:
        apply_gradients(self, all_sum(list(gradients)), variables)

    with (
        replaced(_OPTIMIZER, _backend_apply_gradients=apply),
        replaced(_OPTIMIZER, _all_reduce_sum_gradients=lambda self, pairs: list(pairs)),
    ):
        yield


@contextlib.contextmanager
def gradients_and_losses_as_they_are() -> Iterator[None]:
    """Keras neither divides losses by the number of replicas nor sums up gradients.

    It divides most losses, as if all replicas had as many rows, and not those of outputs without a
    second dimension. We weight by rows, and need each loss as it is.
    """
    with (
        replaced(
            "losses.loss",
            scale_loss_for_distribution=lambda value: value,
            unscale_loss_for_distribution=lambda value: value,
        ),
        replaced(_OPTIMIZER, _all_reduce_sum_gradients=lambda self, pairs: list(pairs)),
    ):
        yield


@contextlib.contextmanager
def masks_weighted(weigh: Callable[[Any], Any]) -> Iterator[None]:
    """Keras's means over the entries that a mask leaves are made otherwise.

    weigh: gives the factor of such a mean, a scalar, from the mask.
    """

    def apply_mask(sample_weight: Any, mask: Any, dtype: Any, reduction: Any) -> Any:
        weights = unweighted["apply_mask"](sample_weight, mask, dtype, reduction)
        if mask is None or reduction not in MEANS:
            return weights
        return weights * tf.cast(weigh(mask), weights.dtype)

    with replaced("losses.loss", apply_mask=apply_mask) as unweighted:
        yield


@contextlib.contextmanager
def tables_clipped() -> Iterator[None]:
    """Keras's optimizers clip the gradient of a divided table as a whole, and not each shard's."""

    def apply(self: Any, gradients: Any, variables: Any) -> None:
        clipped = clipped_tables(self, gradients, variables)
        unclipped["_backend_apply_gradients"](self, clipped, variables)

    # after summed_gradients(), whose TFOptimizer is this one's subclass: what is clipped is the sum
    with replaced(_BASE_OPTIMIZER, _backend_apply_gradients=apply) as unclipped:
        yield


@contextlib.contextmanager
def rows_read() -> Iterator[None]:
    """Keras's Embedding reads the rows that it looks up where the table is, not the whole table.

    tf.gather() does so for variables that can, TensorFlow's and, in this context, Keras's.
    """
    variable = variable_class()

    def sparse_read(self: Any, indices: Any, name: str | None = None) -> Any:
        return own_copy(self.value).sparse_read(indices, name=name)

    variable.sparse_read = sparse_read
    try:
        yield
    finally:
        del variable.sparse_read
