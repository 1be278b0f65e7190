"""A state of hvd.elastic whose commits outlive the processes; docs/GANG.md has lasting()."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tfos

ROWS, BATCH = 1003, 10


def lasting(ctx: Any, model: Any, **values: Any) -> Any:
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    class State(hvd.elastic.KerasState):
        def commit(self) -> None:
            super().commit()
            if ctx.checkpoint.due():
                with tempfile.TemporaryDirectory() as local:
                    variables.write(os.path.join(local, "variables"))
                    committed = {name: getattr(self, name) for name in values}
                    Path(local, "values.json").write_text(json.dumps(committed))
                    ctx.checkpoint.save_dir(local, self.step)

    variables = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    newest = ctx.checkpoint.newest()
    if newest is not None:
        variables.read(str(newest / "variables")).assert_consumed()
        values = json.loads((newest / "values.json").read_text())
    state = State(model, **values)
    state.sync()
    return state


class Elastic(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--until", help="a file; the epoch in which it appears is the last one")
        parser.add_argument("--epochs", type=int, default=10_000)

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).selectExpr(
            "cast(id / 500.0d - 1 as float) x", "cast(3 * (id / 500.0d - 1) + 2 as float) y"
        )

    def train(self, ctx):
        import horovod.tensorflow.keras as hvd
        import tensorflow as tf
        from horovod.tensorflow import Sum, allgather, allreduce

        hvd.init()
        model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
        model.compile(hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.2, momentum=0.5)), "mse")
        model.optimizer.build(model.trainable_variables)
        train = ctx.dataset("train", BATCH, label="y")
        state = lasting(ctx, model, step=0, rows=0)
        begun, is_over = state.step, False
        while not is_over and train.epoch < self.args.epochs:
            for features, y in train.numpy():
                model.train_on_batch(features["x"], y)
                state.step += 1
                state.rows += int(allreduce(np.int64(len(y)), op=Sum))
                state.commit()
                time.sleep(0.02)
            ends = ctx.rank == 0 and bool(self.args.until) and os.path.exists(self.args.until)
            is_over = bool(allreduce(np.int64(ends), op=Sum))
        weights = np.concatenate([each.ravel() for each in model.get_weights()])
        return {
            "epochs": train.epoch,
            "begun": begun,
            "rows": state.rows,
            "steps": [state.step, int(model.optimizer.iterations)],
            "weights": allgather(weights[None]).numpy(),
        }
