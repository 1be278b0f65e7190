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

from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.plan import share
from tfos.training.collectives import all_sum
from tfos.training.patches import MEANS, gradients_and_losses_as_they_are, masks_weighted


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
            with gradients_and_losses_as_they_are(), masks_weighted(self._part_of_mask):
                yield self._weight
        finally:
            self._weight = None

    def _part_of_mask(self, mask: Any) -> Any:
        """What a mean over the entries that a mask leaves of this process's rows is to be times.

        Then the means of all processes, weighted by their rows, add up to the mean over all that is
        left of the step's rows.
        """
        left = tf.reduce_sum(tf.cast(mask, tf.float32))
        left = tf.where(self._weight > 0, left, 0.0)  # a row that is there for the shape alone
        return tf.math.divide_no_nan(left, all_sum([left])[0] * self._weight)

    def reduce_gradients(self, optimizer: Any) -> None:
        """Makes `optimizer` apply the sum of all processes' gradients.

        Keras would do so as well, after clipping and without weights.
        """

        def apply_sum(gradients: Sequence[Any], variables: Any = None) -> Any:
            if self._weight is not None:  # in a step, and not where one is only traced
                gradients = self._sum(list(gradients))
            return type(optimizer).apply(optimizer, gradients, variables)

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


def check_losses(model: keras.Model) -> None:
    """Raises UsageError for a compiled loss that cannot be put together from parts of a batch."""
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in MEANS:
            raise UsageError(
                f"loss {type(loss).__name__} of model {model.name!r} has"
                f" reduction={reduction!r}, which workers that train in step cannot put together"
                f" from their parts of a batch: use one of {MEANS}, or --strategy single"
            )
