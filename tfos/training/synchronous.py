"""Steps that several processes make together: the sums of an allreduce.

Each process computes the gradients of its own rows' mean loss. Weighted by its part of the step's
rows they add up to the gradients of the mean over all rows of the step, so that W processes with
batches of b rows make the same step as one process with a batch of W * b. What an optimizer does
with gradients beyond scaling them (clipping) is done to the sum, as one process
would. (The way of Goyal et al. 2017, section 3, with exact weights for an uneven last step.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.errors import TFOSError, UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.plan import share

# losses that divide by the rows of a batch, so that weighted means of them are means
_MEANS = ("sum_over_batch_size", "mean")


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def all_sum(tensors: Sequence[Any]) -> list[Any]:
    """The sums of tensors or IndexedSlices over the processes. In a replica context.

    As one operation where there is more than one tensor: each costs a round trip.
    """
    if not tensors:
        return []
    # a tensor from a loop has no device, which the allreduce needs to know
    placed = [t if isinstance(t, tf.IndexedSlices) else tf.identity(t) for t in tensors]
    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, placed))


class Synchronous:
    """One process's part in the steps over `dataset`. Its methods are for tracing a tf.function."""

    def __init__(self, dataset: FeedDataset) -> None:
        self._dataset = dataset
        self._first, self._end = share(dataset.rows, dataset.replica, dataset.replicas)
        self._weight: Any = None

    def rows(self, at: Any) -> tuple[Any, Any]:
        """(rows of this process, rows of all) in the step at position `at`, int64 scalars."""
        dataset = self._dataset
        begin = self._first + at // dataset.replicas
        mine = tf.clip_by_value(self._end - begin, 0, tf.constant(dataset.batch_size, tf.int64))
        return mine, tf.minimum(tf.constant(dataset.rows, tf.int64) - at, dataset.step_rows)

    @contextlib.contextmanager
    def step(self, at: Any) -> Iterator[Any]:
        """The optimizers given to reduce_gradients() take part in the step at position `at`.

        Gives this process's weight, float32: its part of the step's rows.
        """
        mine, total = self.rows(at)
        self._weight = tf.cast(mine, tf.float32) / tf.cast(total, tf.float32)
        try:
            with _unscaled_losses():
                yield self._weight
        finally:
            self._weight = None

    def reduce_gradients(self, optimizer: Any) -> None:
        """Makes `optimizer` apply the sum of all processes' gradients.

        Keras would do so as well, after clipping and without weights.
        """
        apply = type(optimizer).apply
        inner = optimizer
        while inner is not None:
            if not hasattr(inner, "_all_reduce_sum_gradients"):
                raise TFOSError(
                    f"Keras {keras.__version__} sums up the gradients elsewhere; use a Keras"
                    " version that tfos is tested with, or --strategy single"
                )
            inner._all_reduce_sum_gradients = list
            inner = getattr(inner, "inner_optimizer", None)

        def apply_sum(gradients: Sequence[Any], variables: Any = None) -> Any:
            return apply(optimizer, self._sum(list(gradients)), variables)

        optimizer.apply = apply_sum

    def _sum(self, gradients: list[Any]) -> list[Any]:
        def weighted(gradient: Any) -> Any:
            if isinstance(gradient, tf.IndexedSlices):
                values = gradient.values * tf.cast(self._weight, gradient.dtype)
                return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
            return gradient * tf.cast(self._weight, gradient.dtype)

        there = [index for index, gradient in enumerate(gradients) if gradient is not None]
        sums = all_sum([weighted(gradients[index]) for index in there])
        for index, value in zip(there, sums, strict=True):
            gradients[index] = value
        return gradients


@contextlib.contextmanager
def _unscaled_losses() -> Iterator[None]:
    """Keras does not divide losses by the number of replicas, as it would in their context.

    It does so for most losses, as if all replicas had as many rows, and not for those of outputs
    without a second dimension. We weight by rows, and need each loss as it is.
    """
    names = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
    try:
        from keras.src.losses import loss as module

        before = {name: getattr(module, name) for name in names}
    except (ImportError, AttributeError) as error:
        raise TFOSError(
            f"Keras {keras.__version__} scales losses elsewhere ({error}); use a Keras version that"
            " tfos is tested with, or --strategy single"
        ) from error
    try:
        for name in names:
            setattr(module, name, lambda value: value)
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def check_losses(model: keras.Model) -> None:
    """Raises UsageError for a compiled loss that cannot be put together from parts of a batch."""
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in _MEANS:
            raise UsageError(
                f"loss {type(loss).__name__} of model {model.name!r} has"
                f" reduction={reduction!r}, which workers that train in step cannot put together"
                f" from their parts of a batch: use one of {_MEANS}, or --strategy single"
            )
