"""A model's step over one unit of rows, where the weights are in the store.

As tfos.training.program.Program, of which a Python loop over the steps has taken the place: each
pulls the rows and the dense weights that it reads, all in one exchange, is made as a graph, and
pushes its gradients in one exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.training.program import Program
from tfos.training.runner import Runner
from tfos.training.step import Step, schedule_of
from tfos.training.stored.batches import Batches
from tfos.training.stored.graphs import Graphs, reads
from tfos.training.stored.orders import Order


class StoredProgram(Program):
    """name: what the program is called on the wire: "train" or "test".

    function: the program itself, which makes a unit when it is called; the chief of --strategy kv
    only names it. The state that it returns has the number of steps after it.
    """

    def __init__(self, step: Step, dataset: FeedDataset, runner: Runner, name: str) -> None:
        self.name, self.takes = name, dataset.takes
        self._batches, self._trains = Batches(dataset), name == "train"
        store = runner.store_of(step.model)
        assert store is not None, "make_program() asks"
        self._store = store
        super().__init__(step, dataset, runner)
        self._graphs = store.made(
            step,
            lambda: Graphs(
                step,
                dataset,
                self._batches.spec,
                store,
                self._metrics,
                self._initial,
                self._trains,
                not self._follows,
            ),
        )

    def _build(self, dataset: FeedDataset, runner: Runner, applied: Any) -> Any:
        return self

    def __call__(self, bounds: Any, order: Order, *state: Any) -> list[Any]:
        """For a runner in this process."""
        left = self.run([int(each) for each in bounds], order, state)
        return [tf.constant(each) for each in left]

    @property
    def inputs(self) -> list[Any]:
        optimizers = self._step.optimizers if self._trains else []
        made = int(optimizers[0].iterations.numpy()) if optimizers else 0
        rates = [None if schedule_of(each) else float(each.learning_rate) for each in optimizers]
        return [Order(self._store.next_unit(), made, rates), *super().inputs]

    def add(self, state: list[np.ndarray], left: Sequence[np.ndarray]) -> None:
        for optimizer in self._step.optimizers if self._trains else ():
            optimizer.iterations.assign_add(int(left[-1]))
        super().add(state, left[:-1])

    def run(
        self, bounds: Sequence[int], order: Order, state: Sequence[Any] = ()
    ) -> list[np.ndarray]:
        """Makes the steps of positions [start, stop) of an epoch: the state that they leave.

        bounds: epoch, start, stop.
        """
        graphs, store, steps = self._graphs, self._store, 0
        left: Sequence[Any] = state if self._follows else [tf.constant(v) for v in self._initial]
        others: Sequence[Any] = self._others
        pushed: Future[Any] | None = None
        with store.in_step(self._trains):
            for read, rows in reads(graphs, store.ahead, self._batches, bounds):
                left, others, gradients, differences = graphs.made(read, left)
                if self._trains:
                    rates = self._rates(order, steps)
                    requests = graphs.writing(read.keys, gradients, differences, rates)
                    requests += store.counting(order.number, rows)
                    if pushed is not None:
                        pushed.result()
                    pushed = store.behind.begin(store.behind.client.exchange, requests)
                    store.clock()
                steps += 1
            if pushed is not None:
                pushed.result()
        return [*(np.asarray(each) for each in [*left, *others]), np.array(steps, np.int64)]

    def _rates(self, order: Order, step: int) -> dict[int, float]:
        """The learning rate of each optimizer in a step of the unit, by its id."""
        found = {}
        for optimizer, rate in zip(self._step.optimizers, order.rates, strict=True):
            schedule = schedule_of(optimizer)
            if rate is None:
                rate = float(schedule(order.iteration + step))
            found[id(optimizer)] = rate
        return found
