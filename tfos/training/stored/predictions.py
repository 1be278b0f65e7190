"""A model's predictions over units of rows, where its weights are in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.training.predictions import PredictProgram, output_structure
from tfos.training.runner import Runner
from tfos.training.step import Step
from tfos.training.stored.batches import Batches
from tfos.training.stored.graphs import Graphs, reads
from tfos.training.stored.orders import Order


class StoredPredict(PredictProgram):
    """As PredictProgram, for which see tfos.training.stored.program."""

    name = "predict"

    def __init__(self, step: Step, dataset: FeedDataset, runner: Runner) -> None:
        self._structure = output_structure(step, dataset, runner)
        self._batches = Batches(dataset)
        self.takes = dataset.takes
        store = runner.store_of(step.model)
        assert store is not None, "make_predict_program() asks"
        self._ahead = store.ahead
        self._graphs = store.made(step, lambda: Graphs(step, dataset, self._batches.spec, store))
        self.function: Any = self

    @property
    def inputs(self) -> Sequence[Any]:  # type: ignore[override]
        return [Order()]

    def __call__(self, bounds: Any, order: Order) -> list[Any]:
        return [tf.constant(each) for each in self.run([int(each) for each in bounds], order)]

    def run(
        self, bounds: Sequence[int], order: Order, state: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """The outputs of a unit, flat."""
        pieces: list[list[np.ndarray]] = []
        for read, rows in reads(self._graphs, self._ahead, self._batches, bounds):
            outputs = self._graphs.made(read, ())[1]
            # NumPy's files have no bfloat16
            arrays = [tf.cast(o, tf.float32) if o.dtype == tf.bfloat16 else o for o in outputs]
            pieces.append([np.asarray(each)[:rows] for each in arrays])
        return [np.concatenate(each) for each in zip(*pieces, strict=True)]

    def structured(self, outputs: Any) -> list[Any]:
        return [keras.tree.pack_sequence_as(self._structure, list(outputs))]
