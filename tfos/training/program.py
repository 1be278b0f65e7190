"""A Keras model's train or test step over one unit of rows, as one tf.function.

The step is the model's own train_step or test_step. It runs in a StepScope, so that the state of
the metrics is a value that goes through the loop of steps and comes back from the worker: metrics
cost no traffic to the parameter servers. Where units follow each other, each goes on from the state
that the one before has left, as in Keras. Elsewhere each begins anew, and the chief adds up what
all of them added, which is exact for all metrics that keep sums; others are refused.
What the model keeps besides, such as moving averages, is written after the step as a difference, so
that workers do not overwrite each other's.

Where processes train in step, they agree on these differences, weighted by their rows, and on the
metrics' state, before anything is written: each then does the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.feeding.dataset import FeedDataset
from tfos.training.checks import check_others
from tfos.training.collectives import all_sum
from tfos.training.patches import rows_read, tables_clipped
from tfos.training.runner import Runner
from tfos.training.scope import StepScope, add_to
from tfos.training.step import Step
from tfos.training.sums import check_sums
from tfos.training.synchronous import Synchronous, check_losses


class AppliedRows:
    """A count of the rows in all training steps, kept where the weights are kept.

    It counts the steps of a worker that died inside a unit, too. What it counted beyond the units
    that were done is what another worker trained on again.
    """

    def __init__(self, runner: Runner) -> None:
        self._count: Any = None
        self._runner = runner
        # else no step can be made twice, or the store counts
        if runner.is_asynchronous and runner.python_store is None:
            with runner.strategy.scope():
                self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="applied_rows")
        self._settled = 0

    @contextlib.contextmanager
    def counting(self, rows: Any) -> Iterator[None]:
        """Inside a tf.function: counts `rows`, an int64 scalar, once the block's step is made.

        TensorFlow orders writes of one variable, not of several: without this a worker might die
        when it has counted a step and not made it.
        """
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        yield
        if self._count is not None:
            made = [op for op in graph.get_operations()[before:] if op.op_def.is_stateful]
            with tf.control_dependencies(made):
                tf.raw_ops.AssignAddVariableOp(resource=self._count.handle, value=rows)

    def surplus(self, done: int) -> int:
        """Rows counted since the last call, beyond the `done` that should have been."""
        if self._count is None:
            return self._runner.repeated_rows() or 0
        counted = int(self._count.numpy()) - self._settled
        self._settled += counted
        return counted - done


class Program:
    """One model's step over units of one dataset.

    applied: counts the rows of each training step; None for a test step.
    function: a tf.function of an int64 tensor [epoch, start, stop], and of what `inputs` gives,
    that trains (or tests) on these positions of the dataset and returns the state of the metrics,
    and after it, float32, the others of the step's logs as the last step had them.
    """

    def __init__(
        self,
        step: Step,
        dataset: FeedDataset,
        runner: Runner,
        applied: AppliedRows | None = None,
    ) -> None:
        self._step, model = step, step.model
        self._metrics = [v for metric in model.metrics for v in metric.variables]
        self._initial = [variable.numpy() for variable in self._metrics]
        self._others = [np.zeros(shape, np.float32) for shape in step.others.values()]
        self._follows = not runner.is_asynchronous and runner.parallelism == dataset.replicas == 1
        self._state = self.begun()
        self._in_step = Synchronous(dataset) if dataset.replicas > 1 else None
        if self._in_step is not None and applied is not None:
            check_losses(model)
            for optimizer in step.optimizers:
                self._in_step.reduce_gradients(optimizer)
        self.function = self._build(dataset, runner, applied)

    def _build(self, dataset: FeedDataset, runner: Runner, applied: AppliedRows | None) -> Any:
        step, in_step, follows = self._step, self._in_step, self._follows
        count = len(self._metrics)
        overlaps = applied is not None and runner.is_asynchronous and runner.parallelism > 1
        run = runner.strategy.run
        changed: list[Any] = []  # the variables of the differences that a step in step returns

        def one_step(state: list[Any], batch: Any, at: Any) -> tuple[list[Any], list[Any]]:
            with contextlib.ExitStack() as stack:
                stack.enter_context(rows_read())
                stack.enter_context(tables_clipped())
                scope = stack.enter_context(StepScope(step, self._metrics, state[:count], overlaps))
                weight = stack.enter_context(in_step.step(at)) if in_step else None
                others = step.others_of(step.function(batch))
                check_others(step.model, others, state[:count])
            after = [scope.get_current_value(variable) for variable in self._metrics]
            last = list(others.values())
            if not follows:
                check_sums(step.model, state[:count], after)
            changes = scope.changes()
            if weight is None:
                for variable, difference in changes:
                    add_to(variable, difference)
                return [*after, *last], []
            changed[:] = [variable for variable, _ in changes]
            after = [
                tf.where(weight > 0, new, old)
                for new, old in zip(after, state[:count], strict=True)
            ]
            # this process's part of the mean over the rows of all
            last = [tf.where(weight > 0, v * tf.cast(weight, v.dtype), 0) for v in last]
            return [*after, *last], _agreed([difference for _, difference in changes], weight)

        specs = [tf.TensorSpec(value.shape, value.dtype) for value in self._initial]

        positions = tf.TensorSpec([3], tf.int64)

        @tf.function(input_signature=[positions, *(specs if follows else [])], autograph=False)
        def unit(bounds: Any, *left: Any) -> Any:
            begun = list(left) if follows else [tf.constant(value) for value in self._initial]
            begun += [tf.constant(value) for value in self._others]
            epoch, start, stop = bounds[0], bounds[1], bounds[2]
            batches = iter(dataset.positions(start, stop, epoch, padded=True, packed=True))

            def body(at: Any, state: Any) -> Any:
                upto = tf.minimum(at + dataset.step_rows, stop)
                with applied.counting(upto - at) if applied else contextlib.nullcontext():
                    batch = dataset.unpacked(next(batches))
                    state, differences = run(one_step, args=(state, batch, at))
                    for variable, difference in zip(changed, differences, strict=True):
                        add_to(variable, difference)
                return upto, state

            _, state = tf.while_loop(
                lambda at, _: at < stop,
                body,
                (start, begun),
                parallel_iterations=1,
            )
            return state if in_step is None else run(self._summed, args=(state,))

        return unit

    def _summed(self, state: list[Any]) -> list[Any]:
        """The state over all processes in step, from this one's. In a replica context."""
        begun = [tf.constant(value) for value in [*self._initial, *self._others]]
        seen = all_sum([value - zero for value, zero in zip(state, begun, strict=True)])
        return [zero + value for zero, value in zip(begun, seen, strict=True)]

    def run(self, bounds: Sequence[int], order: Any, state: Sequence[Any] = ()) -> list[np.ndarray]:
        """Makes a unit where a worker of --strategy kv has been given it; see StoredProgram."""
        raise NotImplementedError

    def begun(self) -> list[np.ndarray]:
        """The state before the first unit, float64: the metrics', and after it the others."""
        return [np.array(value, np.float64) for value in [*self._initial, *self._others]]

    def go_on(self, state: list[np.ndarray]) -> None:
        """The next units are those after `state`, which add() is to keep up to date."""
        self._state = state

    @property
    def inputs(self) -> list[Any]:
        """What the next unit is given besides its positions."""
        return self._tensors(self._state) if self._follows else []

    def add(self, state: list[np.ndarray], left: Sequence[np.ndarray]) -> None:
        """Makes `state` that after one more unit, which has left the state `left`."""
        adds = [not self._follows] * len(self._initial) + [False] * len(self._others)
        initial = [*self._initial, *self._others]
        for into, value, zero, is_sum in zip(state, left, initial, adds, strict=True):
            into[...] = into + np.asarray(value, np.float64) - zero if is_sum else value

    def logs(self, state: list[np.ndarray]) -> dict[str, Any]:
        """The logs of the step in `state`, as Keras has them: sorted, numbers where they are
        scalars."""
        mapping = list(zip(self._metrics, self._tensors(state), strict=True))
        # a result may be a variable itself, whose value is in the scope alone
        with keras.StatelessScope(state_mapping=mapping):
            logs = {
                name: np.asarray(value, np.float64).tolist()
                for name, value in self._step.logs().items()
            }
        others = zip(self._step.others, state[len(self._metrics) :], strict=True)
        logs.update({name: value.tolist() for name, value in others})
        return dict(sorted(logs.items()))

    def _tensors(self, state: list[np.ndarray]) -> list[Any]:
        """The metrics' part of it."""
        with np.errstate(over="ignore"):  # of a loss that has grown beyond all bounds
            values = [v.astype(i.dtype) for i, v in zip(self._initial, state, strict=False)]
        return [tf.constant(value) for value in values]


def _agreed(values: list[Any], weight: Any) -> list[Any]:
    """The differences that all processes in step make: means, weighted by rows.

    Counters and seeds are integers, and the same in all processes.
    """
    real = [index for index, value in enumerate(values) if value.dtype.is_floating]
    sums = all_sum([values[index] * tf.cast(weight, values[index].dtype) for index in real])
    for index, value in zip(real, sums, strict=True):
        values[index] = value
    return values
