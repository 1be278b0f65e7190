"""A model that counts: its embedding has a row per id, and every training row adds one to its id.

The loss is minus the mean of the looked up weights and plain SGD's learning rate is the number of
rows of a step, so that after a run the weights say how often each row was trained on, to compare
with what the ledger says. The rows must be a multiple of a step's.
"""

import functools
import os
import time

import tfos

BATCH = 20
UNIT_STEPS = 5


def slowly(secs, batches):
    time.sleep(secs)
    yield from batches


class Counting(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--rows", type=int, default=4000)
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--unit-secs", type=float, default=0.1)
        parser.add_argument("--own-table", action="store_true", help="tfos's Embedding, in shards")
        parser.add_argument("--until", help="file; the epoch in which it appears is the last one")
        parser.add_argument("--timeline", help="file that gets the time and the steps of each unit")
        parser.add_argument("--misbehave", default="", help="deadlock, once; or exit, always; null")
        parser.add_argument("--etl-secs", type=float, default=0.0, help="of each of 8 partitions")

    def pre_train(self, spark):
        self.rows = self.args.rows
        frame = spark.range(0, self.rows, 1, 8 if self.args.etl_secs else None)
        if self.args.etl_secs:
            frame = frame.mapInArrow(functools.partial(slowly, self.args.etl_secs), frame.schema)
        y = "if(id = 3999, null, 0)" if self.args.misbehave == "null" else "0"
        return frame.selectExpr("id", f"cast({y} as float) as y")

    def train(self, ctx):
        import keras
        import numpy as np

        from tfos.layers import Embedding

        with ctx.strategy.scope():
            ids = keras.Input((), dtype="int64", name="id")
            layer = Embedding if self.args.own_table else keras.layers.Embedding
            table = layer(self.rows, 1, embeddings_initializer="zeros")
            model = keras.Model({"id": ids}, keras.layers.Reshape(())(table(ids)))
            step_rows = float(BATCH * ctx.strategy.num_replicas_in_sync)
            model.compile(keras.optimizers.SGD(step_rows), loss=lambda y, seen: -seen)
        misbehave = self.args.misbehave
        mark = os.path.join(ctx.log_dir, "misbehaved")

        epoch = 0

        def before_epoch(number, logs):
            nonlocal epoch
            epoch = number

        def between_units(batch, logs):
            if self.args.timeline and ctx.is_chief:
                with open(self.args.timeline, "a") as timeline:
                    steps = epoch * -(-self.rows // BATCH) + batch + 1
                    timeline.write(f"{time.time()} {steps}\n")
            time.sleep(self.args.unit_secs)
            if misbehave == "exit":
                os._exit(7)
            if misbehave == "deadlock" and ctx.is_chief and not os.path.exists(mark):
                os.makedirs(ctx.log_dir, exist_ok=True)
                open(mark, "w").close()
                time.sleep(10_000)

        def after_epoch(epoch, logs):
            model.stop_training = bool(self.args.until) and os.path.exists(self.args.until)

        history = ctx.fit(
            model,
            ctx.dataset("train", BATCH, ["id"], label="y"),
            self.args.epochs,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_begin=before_epoch,
                    on_train_batch_end=between_units,
                    on_epoch_end=after_epoch,
                )
            ],
            steps_per_execution=UNIT_STEPS,
        )
        epochs = len(history.history["loss"])
        shards = model.get_weights()
        if getattr(table, "is_stored", False):
            shards = [ctx.predict(model, ctx.dataset("train", 1000, ["id"], label="y"))]
        counts = np.rint(np.concatenate(shards)).ravel().astype(int)
        return {
            "low": int(counts.min()),
            "high": int(counts.max()),
            "total": int(counts.sum()),
            "uneven": int((counts != epochs).sum()),
            "epochs": epochs,
            "attempt": ctx.attempt,
            "shards": len(shards),
        }
