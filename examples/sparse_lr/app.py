"""Logistic regression on hashed features by FTRL with L1: bin/pl_submit --strategy kv FILE --help.

McMahan et al. 2013, on the key-value store and without Keras: a worker pulls the weights of the
features that a batch has, and pushes their gradients; the servers apply FTRL-proximal. Features are
(name, value) pairs: those of a LIBSVM file, or of any DataFrame with two array columns.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BIAS = -1
# of the scores that the area under the curve is computed from
BINS = 10_000


class SparseLogisticRegression(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: Any) -> None:
        parser.add_argument("--train", help="LIBSVM, or Parquet; without it rows are invented")
        parser.add_argument("--test", help="the same; without it a tenth of the rows")
        parser.add_argument("--rows", type=int, default=100_000, help="to invent")
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--batch-size", type=int, default=64)
        parser.add_argument("--alpha", type=float, default=0.1)
        parser.add_argument("--l1", type=float, default=0.1)
        parser.add_argument("--l2", type=float, default=0.0)

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        frame = read(spark, self.args.train) if self.args.train else self._invented(spark)
        if self.args.test:
            return {"train": frame, "test": read(spark, self.args.test)}
        train, test = frame.randomSplit([0.9, 0.1], seed=1)
        return {"train": train, "test": test}

    def _invented(self, spark: SparkSession) -> DataFrame:
        """Twenty features each of a million by a power law; ten that come often say the label."""
        keys = ", ".join(f"int(pow(rand({n}), 8) * 1e6)" for n in range(20))
        frame = spark.range(self.args.rows).selectExpr(f"array({keys}) as keys")
        return frame.selectExpr(
            "transform(keys, k -> xxhash64('f', k)) as keys",
            "transform(keys, k -> float(1)) as values",
            "float(aggregate(keys, 0, (n, k) -> n + if(k < 10, k % 2 * 2 - 1, 0)) > 0) as y",
        )

    def train(self, ctx: Any) -> dict[str, Any]:
        from tfos.kv.distinct import distinct
        from tfos.kv.optimizers import FTRL

        options = self.args
        weights = ctx.kv.table("weights", 1, FTRL(options.alpha, l1=options.l1, l2=options.l2))
        scores = ctx.kv.table("scores", 2)  # of each bin, how many rows of either label

        def looked_up(features: Any) -> tuple[Any, ...]:
            """The batch's features once each, their weights, and which row has which with what."""
            (keys, lengths), (values, _) = flat(features["keys"]), flat(features["values"])
            count = len(lengths)
            keys, places = distinct(np.append(keys, np.full(count, BIAS)))
            rows = np.append(np.repeat(np.arange(count), lengths), np.arange(count))
            values = np.append(values, np.ones(count, np.float32))
            return keys, weights.pull(keys)[:, 0], rows, places, values

        def predicted(rows: Any, terms: Any, count: int) -> Any:
            return 1 / (1 + np.exp(-np.bincount(rows, terms, count).clip(-35, 35)))

        def step(features: Any, y: Any) -> float:
            keys, found, rows, places, values = looked_up(features)
            p = predicted(rows, found[places] * values, len(y))
            gradient = np.bincount(places, (p - y)[rows] * values, len(keys))
            weights.push(keys, gradient[:, np.newaxis])
            return float(-np.log(np.where(y > 0, p, 1 - p)).mean())  # before it has seen them

        def test(features: Any, y: Any) -> float:
            _, found, rows, places, values = looked_up(features)
            p = predicted(rows, found[places] * values, len(y))
            bins = np.minimum((p * BINS).astype(int), BINS - 1)
            scores.add(bins, np.stack([y <= 0, y > 0], 1).astype(np.float32))
            return float(((p > 0.5) == (y > 0)).mean())

        feeds = {
            name: ctx.dataset(name, size, ["keys", "values"], "y", shuffle=name == "train")
            for name, size in (("train", options.batch_size), ("test", 4096))
        }
        losses, secs = [], []
        for epoch in range(options.epochs):
            begun = time.monotonic()
            losses.append(ctx.run_epoch(step, feeds["train"], epoch))
            secs.append(time.monotonic() - begun)
        accuracy = ctx.run_epoch(test, feeds["test"])
        if not ctx.is_chief:
            return {}
        known = np.concatenate([part.values[:, 0] for part in weights.scan()])
        return {
            "losses": losses,
            "rows_per_sec": [feeds["train"].rows / each for each in secs],
            "accuracy": accuracy,
            "auc": area(scores.pull(np.arange(BINS))),
            "features": len(known),
            "not_zero": int(np.count_nonzero(known)),
        }


def read(spark: SparkSession, path: str) -> DataFrame:
    """Columns keys: array<bigint>, values: array<float>, y: 0 or 1."""
    is_parquet = path.rstrip("/").endswith(".parquet")
    return spark.read.parquet(path) if is_parquet else libsvm(spark, path)


def libsvm(spark: SparkSession, path: str) -> DataFrame:
    """Columns keys: array<bigint>, values: array<float>, y: 0 or 1."""
    parts = "transform(slice(parts, 2, size(parts) - 1), p -> {})"
    return (
        spark.read.text(path)
        .selectExpr("split(trim(value), ' +') as parts")
        .selectExpr(
            f"{parts.format('xxhash64(split_part(p, chr(58), 1))')} as keys",
            f"{parts.format('float(split_part(p, chr(58), 2))')} as values",
            "float(float(parts[0]) > 0) as y",
        )
    )


def flat(column: Any) -> tuple[Any, Any]:
    """The elements of arrays, and how many each has; a feed whose arrays are all of one length has
    them as rows of a matrix.
    """
    if isinstance(column, np.ndarray):
        return column.ravel(), np.full(len(column), column.shape[1])
    return column.values, np.diff(column.row_splits)


def area(counts: Any) -> float:
    """Under the ROC curve, from how many rows of either label each bin of scores has."""
    negative, positive = counts.astype(np.float64).T
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / max(positive.sum() * negative.sum(), 1.0))
