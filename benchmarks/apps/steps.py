"""How many steps a second fit makes: of a dense model of 10M parameters, or of two large tables."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

INPUTS, HIDDEN = 500, 2_850  # 500 * 2850 + 2850 * 2850 weights, biases and outputs: 9.6M
IDS, WIDTH = 200_000, 16


class Steps(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model", choices=["dense", "tables"], default="dense")
        parser.add_argument("--steps", type=int, default=20, help="of an epoch")
        parser.add_argument("--epochs", type=int, default=4, help="of which the first is not timed")
        parser.add_argument("--batch-size", type=int, default=512, help="rows of a step")

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        self.pre_train_at = time.time()
        rows = spark.range(0, self.args.steps * self.args.batch_size, 1, 2)
        if self.args.model == "dense":
            value = "cast(pmod(hash(id, i), 1000) as float) / 1000"
            x = f"transform(sequence(1, {INPUTS}), i -> cast({value} as float)) as x"
            return {"train": rows.selectExpr(x, "cast(id % 2 as float) as y")}
        ids = [f"int(rand({n}) * {IDS}) as {name}" for n, name in enumerate(("user", "item"))]
        return {"train": rows.selectExpr(*ids, "cast(id % 2 as float) as y")}

    def train(self, ctx: Any) -> dict[str, Any]:
        train_at = time.time()
        import keras

        from tfos import optimizers

        with ctx.strategy.scope():
            if self.args.model == "dense":
                inputs = {"x": keras.Input((INPUTS,), name="x")}
                hidden = keras.layers.Dense(HIDDEN, activation="relu")(inputs["x"])
                hidden = keras.layers.Dense(HIDDEN, activation="relu")(hidden)
                output = keras.layers.Dense(1)(hidden)
            else:
                names = ("user", "item")
                inputs = {name: keras.Input((), dtype="int32", name=name) for name in names}
                rows = [keras.layers.Embedding(IDS, WIDTH)(x) for x in inputs.values()]
                output = keras.layers.Dot(1)(rows)
            model = keras.Model(inputs, output)
            model.compile(optimizers.Adagrad(0.01), "mse")
        seconds: list[float] = []
        steps_at: list[float] = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps_at.append(time.time()),
            on_epoch_begin=lambda epoch, logs: seconds.append(-time.monotonic()),
            on_epoch_end=lambda epoch, logs: seconds.append(seconds.pop() + time.monotonic()),
        )
        batch_size = self.args.batch_size // ctx.strategy.num_replicas_in_sync
        dataset = ctx.dataset("train", batch_size, features=list(inputs), label="y")
        ctx.fit(model, dataset, self.args.epochs, callbacks=[callback])
        return {
            "parameters": model.count_params(),
            "pre_train_at": self.pre_train_at,
            "train_at": train_at,
            "first_steps_at": steps_at[0],
            "step_secs": statistics.median(seconds[1:]) / self.args.steps,
        }
