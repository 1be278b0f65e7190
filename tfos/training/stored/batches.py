"""The batches of units of a dataset, where steps are made one by one from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfos.feeding.dataset import FeedDataset


class Batches:
    """Of one dataset. spec: the type of one, which dataset.unpacked() takes.

    To put a tf.data pipeline together takes Python longer than a short unit of steps; in a graph it
    is a few operations.
    """

    def __init__(self, dataset: FeedDataset) -> None:
        self._rows = dataset.step_rows

        def positions(start: Any, stop: Any, epoch: Any) -> tf.data.Dataset:
            return dataset.positions(start, stop, epoch, padded=True, packed=True)

        self.spec = positions(0, 0, 0).element_spec
        self._pipeline = tf.function(
            lambda bounds: tf.data.experimental.to_variant(
                positions(bounds[1], bounds[2], bounds[0])
            ),
            input_signature=[tf.TensorSpec([3], tf.int64)],
            autograph=False,
        )

    def of(self, epoch: int, start: int, stop: int) -> Iterator[tuple[Any, int]]:
        """Those of positions [start, stop) of an epoch, and how many rows each has."""
        bounds = tf.constant([epoch, start, stop], tf.int64)
        found = iter(tf.data.experimental.from_variant(self._pipeline(bounds), self.spec))
        for at in range(start, stop, self._rows):
            yield next(found), min(self._rows, stop - at)
