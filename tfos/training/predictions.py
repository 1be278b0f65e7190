"""A model's predictions over units of rows, as one tf.function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.training.runner import Runner
from tfos.training.step import Step
from tfos.training.synchronous import Synchronous


class PredictProgram:
    """function: a tf.function of an int64 tensor [epoch, start, stop] that returns, for each
    replica in step, the model's outputs for its rows of the unit, in order. inputs: nothing more.
    """

    inputs: Sequence[Any] = ()

    def __init__(self, step: Step, dataset: FeedDataset, runner: Runner) -> None:
        in_step = Synchronous(dataset)
        run, predict = runner.strategy.run, step.function

        def one_step(batch: Any, at: Any, stop: Any) -> list[Any]:
            rows = tf.minimum(stop - at, in_step.rows(at)[0])
            return [output[:rows] for output in keras.tree.flatten(predict(batch))]

        structure = output_structure(step, dataset, runner)
        specs = keras.tree.flatten(structure)

        def gathered(outputs: list[Any]) -> list[list[Any]]:
            if dataset.replicas == 1:
                return [outputs]
            context = tf.distribute.get_replica_context()
            counts = context.all_gather(tf.shape(outputs[0])[:1], axis=0)
            pieces = [
                tf.split(
                    context.all_gather(tf.identity(output), axis=0), counts, num=dataset.replicas
                )
                for output in outputs
            ]
            return [list(piece) for piece in zip(*pieces, strict=True)]

        @tf.function(input_signature=[tf.TensorSpec([3], tf.int64)], autograph=False)
        def unit(bounds: Any) -> Any:
            epoch, start, stop = bounds[0], bounds[1], bounds[2]
            batches = iter(dataset.positions(start, stop, epoch, padded=True, packed=True))
            steps = tf.cast((stop - start + dataset.step_rows - 1) // dataset.step_rows, tf.int32)
            arrays = [
                tf.TensorArray(
                    spec.dtype, steps, infer_shape=False, element_shape=[None, *spec.shape[1:]]
                )
                for spec in specs
            ]

            def body(number: Any, arrays: Any) -> Any:
                at = start + tf.cast(number, tf.int64) * dataset.step_rows
                batch = dataset.unpacked(next(batches))
                outputs = run(one_step, args=(batch, at, stop))
                return number + 1, [
                    array.write(number, output)
                    for array, output in zip(arrays, outputs, strict=True)
                ]

            _, arrays = tf.while_loop(
                lambda number, _: number < steps, body, (tf.constant(0), arrays),
                parallel_iterations=1,
            )  # fmt: skip
            pieces = run(gathered, args=([array.concat() for array in arrays],))
            return [keras.tree.pack_sequence_as(structure, piece) for piece in pieces]

        self.function = unit

    def run(self, bounds: Sequence[int], order: Any, state: Sequence[Any] = ()) -> list[Any]:
        """Makes a unit where a worker of --strategy kv has been given it; see StoredPredict."""
        raise NotImplementedError

    def structured(self, outputs: Any) -> list[Any]:
        """What a unit has given, as the model's structure of each replica."""
        return list(outputs)


def output_structure(step: Step, dataset: FeedDataset, runner: Runner) -> Any:
    """What a predict step gives for a batch. Raises UsageError for what cannot be put together."""
    with runner.strategy.scope():
        traced = tf.function(step.function, autograph=False).get_concrete_function(
            dataset.element_spec
        )
    for spec in keras.tree.flatten(traced.structured_outputs):
        if not isinstance(spec, tf.Tensor | tf.TensorSpec) or spec.shape.rank in (None, 0):
            raise UsageError(
                f"model {step.model.name!r} predicts {spec}; predict() takes dense tensors"
                " whose first dimension is the batch"
            )
    return traced.structured_outputs
