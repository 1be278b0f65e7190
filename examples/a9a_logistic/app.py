"""Logistic regression, or a small perceptron, on a LIBSVM file, a9a unless told otherwise.

    bin/pl_submit examples/a9a_logistic/app.py --data DIR/a9a

The rows of FILE train, those of FILE.t beside it test, as the LIBSVM site has its data sets.
"""

from __future__ import annotations

import argparse
import logging
import math
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

EVALUATION_BATCH = 8192
GENERATED_ROWS, GENERATED_FEATURES = 20_000, 100

log = logging.getLogger(__name__)


class A9aLogistic(tfos.TFOnSparkApp):
    """Tells two classes apart: L2-regularized logistic regression, as liblinear's -s 0 has it."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--data",
            metavar="FILE",
            help="LIBSVM file for training, with FILE.t for testing beside it, as any path or URL"
            " that Spark reads; default: generated rows",
        )
        parser.add_argument("--cost", type=float, default=1.0, help="liblinear's C")
        parser.add_argument("--hidden", type=int, default=0, help="units of a hidden layer, if any")
        parser.add_argument("--epochs", type=int, default=8)
        parser.add_argument("--batch-size", type=int, default=512, help="rows per step")
        parser.add_argument("--learning-rate", type=float, default=0.02, help="Adam's, at first")

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        """Feeds "train" and "test": features, a vector of one length, and label, 0 or 1, float."""
        if self.args.data:
            reader = spark.read.format("libsvm")
            train = reader.load(self.args.data)
            # the test rows may lack the last features
            width = train.head().features.size
            test = reader.option("numFeatures", width).load(f"{self.args.data}.t")
        else:
            log.warning("no --data FILE: using GENERATED rows; pass --data for real ones")
            train, test = (generate(spark, seed) for seed in (0, 1))
        self.train_rows = train.count()
        columns = "features", "float(label > 0) as label"
        return {"train": train.selectExpr(*columns), "test": test.selectExpr(*columns)}

    def train(self, ctx: Any) -> dict[str, Any]:
        """Trains, evaluates and exports the model; accuracy and AUC on the test rows."""
        import keras

        args = self.args
        # the same number of rows in a step, however many workers take part in it
        batch_size = args.batch_size // ctx.strategy.num_replicas_in_sync
        train = ctx.dataset("train", batch_size, label="label")
        test = ctx.dataset("test", EVALUATION_BATCH, label="label", shuffle=False)
        (features,) = train.feature_columns
        with ctx.strategy.scope():
            inputs = keras.Input((features.length,), name="features")
            # liblinear's |w|^2 / 2 + C * sum of losses, divided by C and the rows
            penalty = keras.regularizers.L2(0.5 / (args.cost * self.train_rows))
            below = inputs
            if args.hidden:
                hidden = keras.layers.Dense(args.hidden, "relu", kernel_regularizer=penalty)
                below = hidden(inputs)
            layer = keras.layers.Dense(
                1, "sigmoid", kernel_initializer="zeros", kernel_regularizer=penalty
            )
            model = keras.Model({"features": inputs}, layer(below))
            steps = args.epochs * math.ceil(self.train_rows / args.batch_size)
            rate = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps, alpha=0.01)
            model.compile(
                optimizer=keras.optimizers.Adam(rate),
                loss="binary_crossentropy",
                metrics=["accuracy", keras.metrics.AUC(name="auc", num_thresholds=1000)],
            )
        ctx.fit(model, train, epochs=args.epochs)
        evaluation = ctx.evaluate(model, test)
        ctx.export(model)
        return {f"test_{name}": evaluation[name] for name in ("accuracy", "auc", "loss")}

    def shutdown(self) -> None:
        """Prints the quality."""
        if self.result and self.result["status"] == "succeeded":
            for name, value in self.result["metrics"].items():
                print(f"{name} {value:.4f}")


def generate(spark: SparkSession, seed: int) -> DataFrame:
    """Rows as the LIBSVM reader gives them: about a tenth of the features is 1, the others 0.

    The odds of a row's label are set by the same random weights for every seed.
    """
    import numpy as np
    from pyspark.ml.linalg import Vectors

    weights = np.random.default_rng(0).normal(size=GENERATED_FEATURES)

    def row(number: int) -> tuple[float, Any]:
        random = np.random.default_rng([seed, number])
        ones = np.flatnonzero(random.random(GENERATED_FEATURES) < 0.1)
        is_positive = random.random() < 1 / (1 + np.exp(-weights[ones].sum()))
        return 1.0 if is_positive else -1.0, Vectors.sparse(
            GENERATED_FEATURES, ones, np.ones(len(ones))
        )

    return spark.sparkContext.range(GENERATED_ROWS).map(row).toDF(["label", "features"])
