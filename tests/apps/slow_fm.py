"""The example's factorization machine, slow until a file appears, and not over before that.

It is submitted from a copy of examples/fm_movielens, as a module beside the example's own.
"""

from __future__ import annotations

import functools
import os
import time

from app import FMMovieLens

# how much slower the last epoch is: a reserve, for a run that should not be over yet
RESERVE = 10


class SlowFM(FMMovieLens):
    @classmethod
    def add_arguments(cls, parser):
        super().add_arguments(parser)
        parser.add_argument("--until", required=True, help="file that ends the slowness")
        parser.add_argument("--unit-secs", type=float, default=0.1)
        parser.add_argument("--unit-steps", type=int, default=2)

    def train(self, ctx):
        import keras

        until, epochs = self.args.until, self.args.epochs
        unit_secs, unit_steps = self.args.unit_secs, self.args.unit_steps
        at = {"epoch": 0, "steps": 0}
        dataset = ctx.dataset

        def slow_dataset(*args, **kwargs):
            data = dataset(*args, **kwargs)
            # the first is what is trained on
            at["steps"] = at["steps"] or data.wait_complete().steps_per_epoch
            return _slow(data, until, unit_secs / unit_steps)

        def begin_epoch(epoch, logs):
            at["epoch"] = epoch

        def linger(batch, logs):
            last_epoch = at["epoch"] == epochs - 1
            hold = last_epoch and batch == at["steps"] - 1
            end = time.monotonic() + unit_secs * (RESERVE if last_epoch else 1)
            while not os.path.exists(until) and (hold or time.monotonic() < end):
                ctx.report()
                time.sleep(0.05)

        ctx.dataset = slow_dataset
        ctx.fit = functools.partial(
            ctx.fit,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_begin=begin_epoch, on_train_batch_end=linger
                )
            ],
            steps_per_execution=unit_steps,
        )
        return super().train(ctx)


def _slow(dataset, until, batch_secs):
    """The dataset with a wait before each batch, where it is read, as long as there is no file.

    So a worker has a unit half done at most times, and a kill finds it so.
    """
    import tensorflow as tf
    from tensorflow.python.data.experimental.ops.testing import sleep

    positions = dataset.positions

    def slow_positions(start, stop, epoch, **options):
        # not a constant, which would be looked for only once
        pattern = tf.where(start >= 0, until, "")
        ended = tf.size(tf.io.matching_files(pattern)) > 0
        wait = tf.where(ended, tf.constant(0, tf.int64), int(1e6 * batch_secs))
        return positions(start, stop, epoch, **options).apply(sleep(wait))

    dataset.positions = slow_positions
    return dataset
