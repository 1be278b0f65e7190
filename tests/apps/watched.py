"""A model that gets better for some epochs and then worse, for the evaluator to notice."""

import os
import time

import tfos


class Watched(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--epochs", type=int, default=200)
        parser.add_argument("--epoch-secs", type=float, default=1.0)
        parser.add_argument("--table", action="store_true", help="the weight is a row of a table")

    def pre_train(self, spark):
        one = "cast(1 as float)"
        frame = spark.range(400).selectExpr(f"{one} as x", "7L as id", "cast(0 as float) as y")
        return {"train": frame, "eval": frame.limit(40).selectExpr("x", "id", f"{one} as y")}

    def train(self, ctx):
        import keras

        from tfos.layers import Embedding

        features = ["x", "id"] if self.args.table else ["x"]
        with ctx.strategy.scope():
            # the weight goes from 3 down to 0, past the 1 that the evaluation wants
            x = keras.Input((1,), name="x")
            start = keras.initializers.Constant(3.0)
            inputs = {"x": x}
            if self.args.table:
                inputs["id"] = keras.Input((), dtype="int64", name="id")
                weight = Embedding(None, 1, embeddings_initializer=start)(inputs["id"])
                y = keras.layers.Multiply()([x, weight])
            else:
                y = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)(x)
            model = keras.Model(inputs, y)
            model.compile(keras.optimizers.SGD(0.005), loss="mse")
        secs = self.args.epoch_secs
        options = {"features": features, "label": "y"}
        history = ctx.fit(
            model,
            ctx.dataset("train", 40 // ctx.strategy.num_replicas_in_sync, **options),
            self.args.epochs,
            validation=ctx.dataset("eval", 40, **options),
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: time.sleep(secs))
            ],
            evaluation_callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=1)],
        )
        return {
            "epochs": len(history.epoch),
            "validated": "val_loss" in history.history,
            "events": sorted(os.listdir(ctx.log_dir)) if os.path.isdir(ctx.log_dir) else [],
        }
