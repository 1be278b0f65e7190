"""A process's share of a feed, where each process builds the graph that reads it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.feeding.plan import share


class SharedDataset(FeedDataset):
    """A feed of which each process reads its share. Made by BetweenGraphContext.dataset().

    Calling it gives a tf.data.Dataset, so that it is an input_fn of Estimator. Iterating it in a
    `for` loop, where execution is eager, gives all rows.

    of: this process is number of[0] of the of[1] that read.
    """

    def __init__(self, *args: Any, of: tuple[int, int], **options: Any) -> None:
        super().__init__(*args, **options)
        self._of = of

    def __call__(self, epochs: int | None = None) -> tf.data.Dataset:
        """This process's even share of each epoch's rows; of whole() all of them.

        epochs: how many; None for no end. The bounds of the share are constants of the graph, so
        that one-shot iterators take it as well. Waits until all rows of the feed are there.
        """
        self.wait_complete()
        begin, end = (0, self.rows) if self._is_whole else share(self.rows, *self._of)
        count = 0 if begin == end else -1 if epochs is None else epochs
        return (
            tf.data.Dataset.counter(dtype=tf.int64)
            .take(count)
            .flat_map(lambda epoch: self.positions(begin, end, epoch))
        )
