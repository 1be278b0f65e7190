"""A small app that learns y = 2 x, and misbehaves on demand."""

import os
import threading
import time

import tfos


class Linear(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--rows", type=int, default=4000)
        parser.add_argument("--epochs", type=int, default=2)
        parser.add_argument("--misbehave", default="")
        parser.add_argument("--step-secs", type=float, default=0.0)
        parser.add_argument("--begun", help="file that a task of a slow pre_train() writes")
        parser.add_argument("--shut", help="file that shutdown() writes")

    def pre_train(self, spark):
        frame = spark.range(self.args.rows).selectExpr(
            "id", "cast(id % 100 as float) / 100 as x", "2 * cast(id % 100 as float) / 100 as y"
        )
        match self.args.misbehave:
            case "list":
                return [frame]
            case "empty":
                return frame.where("id < 0")
            case "null":
                return frame.selectExpr("id", "x", "if(id % 1000 = 0, null, y) as y")
            case "type":
                return frame.selectExpr("id", "x", "y", "make_dt_interval(1) as odd")
            case "unpicklable":
                self.handle = threading.Lock()
            case "slow":
                sleep_long(spark, self.args.begun)
            case "pre_train":
                raise KeyError("no such table: sales")
        return {"train": frame, "eval": frame.where("id % 10 = 0")}

    def train(self, ctx):
        import keras

        match self.args.misbehave:
            case "raise":
                raise ValueError("the moon is in the wrong place")
            case "exit":
                os._exit(7)
        with ctx.strategy.scope():
            inputs = keras.Input((), name="x")
            outputs = keras.layers.Dense(1)(keras.layers.Reshape((1,))(inputs))
            model = keras.Model({"x": inputs}, keras.layers.Reshape(())(outputs))
            model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse", metrics=["mae"])
        secs = self.args.step_secs

        train = ctx.dataset("train", 50, features=["x"], label="y", seed=1)
        test = ctx.dataset("eval", 64, features=["x"], label="y", shuffle=False)
        wait = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: time.sleep(secs))
        history = ctx.fit(model, train, self.args.epochs, validation=test, callbacks=[wait])
        ctx.report(attempt=ctx.attempt, workers=ctx.num_workers)
        ctx.export(model)
        return {"history": history.history["loss"], **ctx.evaluate(model, test)}

    def shutdown(self):
        if self.args.shut:
            with open(self.args.shut, "w") as file:
                file.write(self.result["status"])


def sleep_long(spark, begun):
    def task(number):
        with open(begun, "w") as file:
            file.write(str(number))
        time.sleep(300)

    spark.sparkContext.parallelize(range(2), 2).foreach(task)
