"""A step in Python over one unit of rows, for --strategy kv: what ctx.run_epoch() runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.training.stored.batches import Batches
from tfos.training.stored.orders import Order
from tfos.training.stored.store import ModelStore


class PythonProgram:
    """`step(features, label[, weight])` on NumPy arrays; it returns the batch's loss, or None.

    A ragged column is a RaggedTensorValue of TensorFlow: arrays `values` and `row_splits`; a sparse
    one a SparseTensorValue.
    """

    name = "epoch"
    takes: Sequence[Any] = ()

    def __init__(self, step: Callable[..., Any], dataset: FeedDataset, store: ModelStore) -> None:
        self._step, self._dataset, self._store = step, dataset, store
        self._batches = Batches(dataset)
        self.function: Any = self

    @property
    def inputs(self) -> Sequence[Any]:
        return [Order(self._store.next_unit())]

    def run(
        self, bounds: Sequence[int], order: Order, state: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """The sum of the losses, each times its rows."""
        store, total = self._store, 0.0
        batches = self._batches.of(*bounds)

        def following() -> tuple[Any, int] | None:
            found = next(batches, None)
            if found is None:
                return None
            return tf.nest.map_structure(_plain, self._dataset.unpacked(found[0])), found[1]

        # beside a step the next batch is read, and the rows of the last one are counted
        ahead, counted = store.ahead.begin(following), None
        while (read := ahead.result()) is not None:
            element, rows = read
            ahead = store.ahead.begin(following)
            if counted is not None:
                counted.result()
            loss = self._step(*element) if isinstance(element, tuple) else self._step(element)
            counting = store.counting(order.number, rows)
            counted = store.behind.begin(store.behind.client.exchange, counting)
            total += rows * float(0.0 if loss is None else loss)
        if counted is not None:
            counted.result()
        return [np.array(total, np.float64)]


def _plain(tensor: Any) -> Any:
    if isinstance(tensor, tf.RaggedTensor):
        values = _plain(tensor.values)
        return tf.compat.v1.ragged.RaggedTensorValue(values, tensor.row_splits.numpy())
    if isinstance(tensor, tf.SparseTensor):
        parts = (tensor.indices, tensor.values, tensor.dense_shape)
        return tf.compat.v1.SparseTensorValue(*(part.numpy() for part in parts))
    return tensor.numpy()
