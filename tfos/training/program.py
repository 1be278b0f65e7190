"""A Keras model's train or test step over one unit of rows, as one tf.function.

The step is the model's own train_step or test_step. It runs in a keras.StatelessScope, so that
the state of the metrics is a value that goes through the loop of steps and comes back from the
worker, and the chief adds up what all workers saw: metrics cost no traffic to the parameter
servers and are exact. Optimizers write their variables past the scope; whatever else the step
assigned, such as the count of iterations or moving averages, is written after it as a difference,
so that workers do not overwrite each other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.training.runner import Runner


def prepare(model: keras.Model, dataset: FeedDataset, runner: Runner) -> None:
    """Builds what `model` has not built yet: weights, metrics and optimizer slots.

    Nothing is computed and no row is read. Raises UsageError when the model is not compiled, or
    has variables that do not belong to the strategy.
    """
    if not getattr(model, "compiled", False):
        raise UsageError(
            f"model {model.name!r} is not compiled: call model.compile(...) before fit"
        )
    before = [v for v in model.variables if "/job:ps" not in str(v.value.device)]
    if runner.coordinator is not None and before:
        raise UsageError(
            f"variable {before[0].path} of model {model.name!r} is on the chief: make and compile"
            " the model inside `with ctx.strategy.scope():`"
        )

    def build(batch: Any) -> None:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        prediction = model(x)
        model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=weight)
        model.compute_metrics(x, y, prediction, sample_weight=weight)

    with runner.strategy.scope():
        tf.function(build).get_concrete_function(dataset.element_spec)
        if model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)
    model.reset_metrics()


class AppliedRows:
    """A count of the rows in all training steps, kept where the weights are kept.

    It counts the steps of a worker that died inside a unit, too. What it counted beyond the units
    that were done is what another worker trained on again.
    """

    def __init__(self, runner: Runner) -> None:
        self._count: Any = None
        if runner.coordinator is not None:  # else no step can be made twice
            with runner.strategy.scope():
                self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="applied_rows")
        self._settled = 0

    def add(self, rows: Any) -> None:
        """Inside a tf.function: counts `rows`, an int64 scalar."""
        if self._count is not None:
            tf.raw_ops.AssignAddVariableOp(resource=self._count.handle, value=rows)

    def surplus(self, done: int) -> int:
        """Rows counted since the last call, beyond the `done` that should have been."""
        if self._count is None:
            return 0
        counted = int(self._count.numpy()) - self._settled
        self._settled += counted
        return counted - done


def random_state(model: keras.Model) -> list[tf.Variable]:
    """The state of the model's random layers, which Keras does not count among its weights."""
    counted = [*model.weights, *(v for metric in model.metrics for v in metric.variables)]
    known = {id(variable) for variable in counted}
    return [v.value for v in model.non_trainable_variables if id(v) not in known]


class Program:
    """One model's step over units of one dataset.

    applied: counts the rows of each training step; without it the step is the test step.
    function: a tf.function of an int64 tensor [epoch, start, stop] that trains (or tests) on these
    positions of the dataset and returns the state of the metrics over them.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: FeedDataset,
        runner: Runner,
        applied: AppliedRows | None = None,
    ) -> None:
        self._model = model
        self._metrics = [v for metric in model.metrics for v in metric.variables]
        for variable in self._metrics:
            if variable.aggregation != "sum":
                raise UsageError(
                    f"metric state {variable.path} has aggregation {variable.aggregation!r}: tfos"
                    " adds up what the workers saw, so it must be 'sum'"
                )
        self._initial = [variable.numpy() for variable in self._metrics]
        self.function = self._build(dataset, runner, applied)

    def _build(self, dataset: FeedDataset, runner: Runner, applied: AppliedRows | None) -> Any:
        model, initial = self._model, self._initial
        step = model.test_step if applied is None else model.train_step
        run = runner.strategy.run

        def one_step(state: list[Any], batch: Any) -> list[Any]:
            inputs = self._inputs(state)
            with keras.StatelessScope(state_mapping=inputs, collect_losses=True) as scope:
                step(batch)
            _write_back(scope, inputs, self._metrics, model)
            return [scope.get_current_value(variable) for variable in self._metrics]

        @tf.function(input_signature=[tf.TensorSpec([3], tf.int64)])
        def unit(bounds: Any) -> Any:
            epoch, start, stop = bounds[0], bounds[1], bounds[2]
            batches = iter(dataset.positions(start, stop, epoch))
            state = [tf.constant(value) for value in initial]

            def body(at: Any, state: Any) -> Any:
                upto = tf.minimum(at + dataset.batch_size, stop)
                state = run(one_step, args=(state, next(batches)))
                if applied is not None:
                    applied.add(upto - at)
                return upto, state

            _, state = tf.while_loop(
                lambda at, _: at < stop, body, (start, state), parallel_iterations=1
            )
            return state

        return unit

    def _inputs(self, state: list[Any]) -> list[tuple[Any, Any]]:
        """What the step sees: metrics from `state`, counters read once, weights as they are."""
        model = self._model
        metrics = {id(variable) for variable in self._metrics}
        counters = [v for v in model.non_trainable_variables if id(v) not in metrics]
        if model.optimizer is not None:
            counters.append(model.optimizer.iterations)
        return [
            *zip(self._metrics, state, strict=True),
            *[(v, tf.identity(v.value)) for v in counters],
            *[(v, v.value) for v in model.trainable_variables],
        ]

    def zero(self) -> list[np.ndarray]:
        """The sum of the metrics' states over no units, float64."""
        return [np.zeros(value.shape, np.float64) for value in self._initial]

    def add(self, total: list[np.ndarray], state: Sequence[np.ndarray]) -> None:
        """Adds the state that one unit returned to `total`."""
        for into, value, initial in zip(total, state, self._initial, strict=True):
            into += np.asarray(value, np.float64) - initial

    def logs(self, total: list[np.ndarray]) -> dict[str, float]:
        """The metrics' results over all units in `total`, by name, loss included."""
        mapping = [
            (variable, tf.constant((initial + value).astype(initial.dtype)))
            for variable, initial, value in zip(self._metrics, self._initial, total, strict=True)
        ]
        with keras.StatelessScope(state_mapping=mapping):
            results = self._model.get_metrics_result()
        return {name: float(value) for name, value in results.items()}


def _write_back(scope: Any, inputs: Any, metrics: Sequence[Any], model: Any) -> None:
    """Writes to the real variables what a step assigned inside the stateless scope."""
    seen = {id(variable): value for variable, value in inputs}
    known = {
        id(v): v
        for v in [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
    }
    skip = {id(variable) for variable in metrics}
    for key, value in scope.state_mapping.items():
        if key in skip or value is seen.get(key):
            continue
        variable = known.get(key)
        if variable is None:
            raise UsageError(
                f"the step of model {model.name!r} assigns a variable that neither the model nor"
                " its optimizer tracks: make it an attribute of the model"
            )
        if variable.trainable or key not in seen:
            variable.value.assign(tf.cast(value, variable.value.dtype))
        else:
            variable.value.assign_add(tf.cast(value, variable.value.dtype) - seen[key])


class CustomProgram:
    """A user's own step over units of one dataset.

    step: called with the parts of one batch inside strategy.run; returns the batch's scalar loss.
    function: a tf.function of an int64 tensor [epoch, start, stop] that returns the sum, float64,
    of each batch's loss times its rows.
    """

    def __init__(
        self, step: Any, dataset: FeedDataset, runner: Runner, applied: AppliedRows
    ) -> None:
        run = runner.strategy.run

        @tf.function(input_signature=[tf.TensorSpec([3], tf.int64)])
        def unit(bounds: Any) -> Any:
            epoch, start, stop = bounds[0], bounds[1], bounds[2]
            batches = iter(dataset.positions(start, stop, epoch))

            def body(at: Any, total: Any) -> Any:
                batch = next(batches)
                loss = run(step, args=batch if isinstance(batch, tuple) else (batch,))
                if loss is None:
                    raise UsageError("the step given to run_epoch returned None: return a scalar")
                upto = tf.minimum(at + dataset.batch_size, stop)
                applied.add(upto - at)
                return upto, total + tf.cast(loss, tf.float64) * tf.cast(upto - at, tf.float64)

            return tf.while_loop(
                lambda at, _: at < stop,
                body,
                (start, tf.constant(0.0, tf.float64)),
                parallel_iterations=1,
            )[1]

        self.function = unit
