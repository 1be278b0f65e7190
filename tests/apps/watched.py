"""A model that gets better for some epochs and then worse, for the evaluator to notice."""

import os
import time

import tfos


class Watched(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--epochs", type=int, default=200)
        parser.add_argument("--epoch-secs", type=float, default=1.0)

    def pre_train(self, spark):
        frame = spark.range(400).selectExpr("cast(1 as float) as x", "cast(0 as float) as y")
        return {"train": frame, "eval": frame.limit(40).selectExpr("x", "cast(1 as float) as y")}

    def train(self, ctx):
        import keras

        with ctx.strategy.scope():
            # the weight goes from 3 down to 0, past the 1 that the evaluation wants
            x = keras.Input((1,), name="x")
            start = keras.initializers.Constant(3.0)
            y = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)(x)
            model = keras.Model({"x": x}, y)
            model.compile(keras.optimizers.SGD(0.005), loss="mse")
        secs = self.args.epoch_secs
        options = {"features": ["x"], "label": "y"}
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
