"""Features by a pipeline of Spark MLlib, fed straight into a logistic regression in Keras.

    bin/pl_submit examples/mllib_pipeline/app.py

Who clicks? Spark generates visits and turns them into vectors (pre_train), Keras learns from them
(train), and the driver prints how well (shutdown).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    from pyspark.ml import Pipeline
    from pyspark.sql import DataFrame, SparkSession

# What the generated visitors are like: how much each raises the log-odds of a click.
CITIES = {"Amsterdam": 0.5, "Berlin": -1.0, "Lisbon": 2.0, "Oslo": -2.0, "Paris": 0.0, "Rome": 1.0}
DEVICES = {"desktop": -1.0, "phone": 1.0, "tablet": 0.0}
# The young and the old click: no line through the age says so, buckets of it do.
AGE_LIMITS = [18.0, 25.0, 35.0, 45.0, 55.0, 65.0, 80.0]
AGE_EFFECT = "if(age < 25 or age >= 65, 2.0, -1.0)"
TEST_PERCENT = 20


class Clicks(tfos.TFOnSparkApp):
    """Predicts clicks from a visitor's city, device and age."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=20_000, help="visits to generate")
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--batch-size", type=int, default=256)
        parser.add_argument("--learning-rate", type=float, default=0.02)
        parser.add_argument("--seed", type=int, default=0, help="of data, split and shuffling")

    def pre_train(self, spark: SparkSession) -> dict[str, tfos.Feed]:
        """Feeds "train" and "test": features, a vector, and click, 0 or 1."""
        from pyspark.sql import functions as F  # noqa: N812 - the name PySpark's own manual uses

        visits = generate(spark, self.args.rows, self.args.seed).cache()
        is_test = F.pmod(F.xxhash64("id", F.lit(self.args.seed)), F.lit(100)) < TEST_PERCENT
        train = visits.where(~is_test)
        model = pipeline().fit(train)  # on the training rows alone
        self.size = len(model.transform(train).first().features)

        def feed(rows: DataFrame) -> tfos.Feed:
            # one-hot vectors are mostly zeros: as a tf.SparseTensor these cost nothing
            return tfos.Feed(model.transform(rows).select("features", "click"), sparse=["features"])

        return {"train": feed(train), "test": feed(visits.where(is_test))}

    def train(self, ctx: Any) -> dict[str, float]:
        """Train, evaluate and export; accuracy and AUC on the test rows."""
        # Imported here, so that the driver, which imports this module too, needs no TensorFlow.
        import keras

        args = self.args
        with ctx.strategy.scope():
            features = keras.Input((self.size,), sparse=True, name="features")
            click = keras.layers.Dense(1, activation="sigmoid")(features)
            model = keras.Model({"features": features}, click)
            model.compile(
                optimizer=keras.optimizers.Adam(args.learning_rate),
                loss="binary_crossentropy",
                metrics=["accuracy", keras.metrics.AUC(name="auc")],
            )
        train = ctx.dataset("train", args.batch_size, label="click", seed=args.seed)
        ctx.fit(model, train, epochs=args.epochs)
        test = ctx.dataset("test", 4096, label="click", shuffle=False)
        evaluation = ctx.evaluate(model, test)
        ctx.export(model)
        # what it takes to be right most often without looking at a visitor
        clicks = sum(float(sum(labels)) for _, labels in test) / test.rows
        return {
            "accuracy": float(evaluation["accuracy"]),
            "auc": float(evaluation["auc"]),
            "majority": max(clicks, 1 - clicks),
        }

    def shutdown(self) -> None:
        if self.result and self.result["status"] == "succeeded":
            metrics = self.result["metrics"]
            print(f"accuracy {metrics['accuracy']:.3f}, majority class {metrics['majority']:.3f}")


def generate(spark: SparkSession, rows: int, seed: int) -> DataFrame:
    """Visits: id long, city and device string, age double, click float. The same for a seed."""

    def one_of(names: dict[str, float], number: int) -> str:
        listed = ", ".join(map(repr, names))
        return f"array({listed})[int(rand({seed + number}) * {len(names)})]"

    def effect(column: str, effects: dict[str, float]) -> str:
        return f"case {column} {' '.join(f'when {k!r} then {v}' for k, v in effects.items())} end"

    log_odds = f"{effect('city', CITIES)} + {effect('device', DEVICES)} + {AGE_EFFECT}"
    # rand() goes by partition, so their number is part of the data
    return (
        spark.range(0, rows, 1, 4)
        .selectExpr(
            "id",
            f"{one_of(CITIES, 1)} as city",
            f"{one_of(DEVICES, 2)} as device",
            f"{AGE_LIMITS[0]} + rand({seed + 3}) * {AGE_LIMITS[-1] - AGE_LIMITS[0]} as age",
        )
        .selectExpr("*", f"float(rand({seed + 4}) < 1 / (1 + exp(-({log_odds})))) as click")
    )


def pipeline() -> Pipeline:
    """City, device and age as one vector, features: one-hot each, the age by buckets."""
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import Bucketizer, OneHotEncoder, StringIndexer, VectorAssembler

    names = ["city", "device"]
    indexed = [f"{name}_index" for name in names]
    buckets = Bucketizer(splits=AGE_LIMITS, inputCol="age", outputCol="age_bucket")
    encoded = [f"{name}_vector" for name in [*names, "age"]]
    return Pipeline(
        stages=[
            StringIndexer(inputCols=names, outputCols=indexed, handleInvalid="keep"),
            buckets,
            OneHotEncoder(inputCols=[*indexed, "age_bucket"], outputCols=encoded, dropLast=False),
            VectorAssembler(inputCols=encoded, outputCol="features"),
        ]
    )
