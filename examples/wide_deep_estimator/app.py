"""The canned wide and deep classifier of Estimator on a LIBSVM file.

Estimator ends with TensorFlow 2.15: see README.md.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FEATURES = 123
# of a row; shorter ones end with -1, which Estimator's columns leave out
MOST = 14


class WideDeep(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", required=True, help="a9a of the LIBSVM site; beside it a9a.t")
        parser.add_argument("--epochs", type=int, default=10)
        parser.add_argument("--batch-size", type=int, default=128)

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        """A row's features are all 0 or 1: the numbers of those that are 1 say all of it."""
        train, test = (_read(spark, path) for path in (self.args.data, f"{self.args.data}.t"))
        self.steps = self.args.epochs * train.count() // self.args.batch_size
        return {"train": train, "test": test}

    def train(self, ctx: Any) -> dict[str, float] | None:
        import tensorflow as tf

        feature = tf.feature_column
        ids = feature.categorical_column_with_identity("ids", FEATURES)
        config = tf.estimator.RunConfig(
            model_dir=ctx.model_dir,
            save_checkpoints_secs=5,
            keep_checkpoint_max=50,  # the evaluator opens them one after the other
            experimental_max_worker_delay_secs=0,  # workers would else wait 5 s for each other
        )
        classifier = tf.compat.v1.estimator.DNNLinearCombinedClassifier(
            linear_feature_columns=[ids],
            linear_optimizer=tf.compat.v1.train.FtrlOptimizer(0.05, l1_regularization_strength=0.1),
            dnn_feature_columns=[feature.embedding_column(ids, 8)],
            dnn_optimizer=tf.compat.v1.train.AdagradOptimizer(0.02),
            dnn_hidden_units=[32, 16],
            config=config,
        )
        train = ctx.dataset("train", self.args.batch_size, label="label")
        test = ctx.dataset("test", 4096, label="label").whole()
        tf.estimator.train_and_evaluate(
            classifier,
            tf.estimator.TrainSpec(train, max_steps=self.steps),
            tf.estimator.EvalSpec(
                lambda: test(epochs=1), steps=None, start_delay_secs=1, throttle_secs=5
            ),
        )
        if not ctx.is_chief:
            return None
        quality = classifier.evaluate(lambda: test(epochs=1))

        def serving_inputs() -> Any:
            inputs = {"ids": tf.compat.v1.placeholder(tf.int32, [None, MOST], "ids")}
            return tf.estimator.export.ServingInputReceiver(inputs, inputs)

        ctx.export(classifier.export_saved_model(ctx.output_dir, serving_inputs), train)
        return {f"test_{name}": float(quality[name]) for name in ("accuracy", "auc", "loss")}

    def shutdown(self) -> None:
        """Prints the quality."""
        if self.result and self.result["status"] == "succeeded":
            for name, value in self.result["metrics"].items():
                print(f"{name} {value:.4f}")


def _read(spark: SparkSession, path: str) -> DataFrame:
    """Columns ids, MOST numbers from 0, and label, 0 or 1."""
    if not os.path.exists(path):
        raise tfos.UsageError(f"--data: there is no file {path}")
    padding = f"array_repeat(-1, {MOST})"
    ids = "transform(filter(parts, p -> p like '%:%'), p -> int(split(p, ':')[0]) - 1)"
    lines = spark.read.text(path).selectExpr("split(trim(value), ' +') parts")
    return lines.selectExpr(
        f"slice(concat({ids}, {padding}), 1, {MOST}) ids", "int(parts[0] = '+1') label"
    )
