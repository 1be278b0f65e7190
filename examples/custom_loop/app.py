"""A training loop of one's own: learns whom what pleases from choices between two items.

    bin/pl_submit examples/custom_loop/app.py

Bayesian personalized ranking (Rendle et al. 2009): a row says that a user chose `item` over
`other`, and the loss is of the difference of two scores. The loop is the same under every strategy.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

USERS, ITEMS = 500, 200
PARTITIONS = 4  # what rand(seed) gives depends on them
# What pleases lies on a circle: the nearer an item is to the user's own place, the more it does.
PLEASURE = "4 * cos(2 * pi() * (user / {users} - {item} / {items}))"


class CustomLoop(tfos.TFOnSparkApp):
    """Learns from generated choices; reports which part of other choices it foretells."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=45_000, help="a ninth of them for testing")
        parser.add_argument("--epochs", type=int, default=5)
        parser.add_argument("--batch-size", type=int, default=256, help="rows per step")

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        """Feeds "train" and "test": user, item, other int."""
        one, two = (PLEASURE.format(users=USERS, items=ITEMS, item=item) for item in ("one", "two"))
        draws = zip(("user", "one", "two"), (USERS, ITEMS, ITEMS), range(3), strict=True)
        choices = (
            spark.range(0, self.args.rows, 1, PARTITIONS)
            .selectExpr("id", *(f"int(rand({seed}) * {n}) as {name}" for name, n, seed in draws))
            .selectExpr("*", f"rand(3) < 1 / (1 + exp({two} - {one})) as is_one")
            .selectExpr("id", "user", "if(is_one, one, two) item", "if(is_one, two, one) other")
        )
        return {
            "train": choices.where("id % 9 > 0").drop("id"),
            "test": choices.where("id % 9 = 0").drop("id"),
        }

    def train(self, ctx: Any) -> dict[str, Any]:
        """Trains, continuing from the newest checkpoint; the accuracy on the test choices."""
        import keras
        import tensorflow as tf

        with ctx.strategy.scope():
            user, item, other = (
                keras.Input((), dtype="int32", name=name) for name in ("user", "item", "other")
            )
            tables = [
                keras.layers.Embedding(size, 8, keras.initializers.RandomNormal(stddev=0.1, seed=n))
                for n, size in enumerate((USERS, ITEMS))
            ]
            vectors = [table(ids) for table, ids in zip(tables, (user, item), strict=True)]
            score = keras.Model({"user": user, "item": item}, keras.layers.Dot(1)(vectors))
            margin = score({"user": user, "item": item}) - score({"user": user, "item": other})
            pairs = keras.Model({"user": user, "item": item, "other": other}, margin)
            # safe under asynchronous workers, as SGD is; of Adam only ctx.fit makes it so
            optimizer = keras.optimizers.Adagrad(0.05, initial_accumulator_value=1e-6)
            optimizer.build(pairs.trainable_variables)

        def step(rows: dict[str, tf.Tensor]) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = ctx.mean(tf.math.softplus(-pairs(rows, training=True)))
            gradients = tape.gradient(loss, pairs.trainable_variables)
            optimizer.apply(gradients, pairs.trainable_variables)
            return loss

        # the same number of rows in a step, however many workers take part in it
        batch_size = self.args.batch_size // ctx.strategy.num_replicas_in_sync
        train = ctx.dataset("train", batch_size)
        begun = ctx.checkpoint.restore(model=score, optimizer=optimizer)
        losses = begun["losses"] if begun else []
        for epoch in range(len(losses), self.args.epochs):
            losses = [*losses, ctx.run_epoch(step, train, epoch)]
            ctx.report(epochs=epoch + 1, loss=losses[-1])
            if ctx.checkpoint.due() or epoch + 1 == self.args.epochs:
                ctx.checkpoint.save((epoch + 1) * train.steps_per_epoch, {"losses": losses})
        margins = ctx.predict(pairs, ctx.dataset("test", 4096, shuffle=False))
        ctx.export(score, ctx.dataset("train", batch_size, features=["user", "item"]))
        return {"losses": losses, "test_accuracy": float((margins > 0).mean())}
