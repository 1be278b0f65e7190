"""A user's own training step over units of rows, and the mean that its gradients need."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfos.compat.tensorflow import converted
from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.training.collectives import all_sum
from tfos.training.patches import rows_read, summed_gradients, tables_clipped
from tfos.training.program import AppliedRows
from tfos.training.runner import Runner


def mean(values: Any, replicas: int) -> Any:
    """See TrainContext.mean."""
    if replicas == 1:
        return tf.reduce_mean(values)
    count = tf.cast(tf.size(values), values.dtype)
    return tf.reduce_sum(values) / all_sum([count])[0]


class CustomProgram:
    """A user's own step over units of one dataset.

    step: called with the parts of one batch inside strategy.run; returns the batch's scalar loss,
    of which the sum over processes in step is that of the whole step's rows.
    inputs: nothing more than the positions.
    function: a tf.function of an int64 tensor [epoch, start, stop] that returns the sum, float64,
    of each step's loss times its rows.
    """

    inputs: Sequence[Any] = ()

    def __init__(
        self, step: Any, dataset: FeedDataset, runner: Runner, applied: AppliedRows
    ) -> None:
        run, step = runner.strategy.run, converted(step)
        reducing = contextlib.nullcontext if dataset.replicas == 1 else summed_gradients

        @tf.function(input_signature=[tf.TensorSpec([3], tf.int64)], autograph=False)
        def unit(bounds: Any) -> Any:
            epoch, start, stop = bounds[0], bounds[1], bounds[2]
            batches = iter(dataset.positions(start, stop, epoch, packed=True))

            def body(at: Any, total: Any) -> Any:
                batch = dataset.unpacked(next(batches))
                upto = tf.minimum(at + dataset.step_rows, stop)
                with applied.counting(upto - at), reducing(), tables_clipped(), rows_read():
                    loss = run(step, args=batch if isinstance(batch, tuple) else (batch,))
                if loss is None:
                    raise UsageError("the step given to run_epoch returned None: return a scalar")
                return upto, total + tf.cast(loss, tf.float64) * tf.cast(upto - at, tf.float64)

            _, total = tf.while_loop(
                lambda at, _: at < stop,
                body,
                (start, tf.constant(0.0, tf.float64)),
                parallel_iterations=1,
            )
            return total if dataset.replicas == 1 else run(all_sum, args=([total],))[0]

        self.function = unit
