"""A small convolutional net that tells four shapes apart in noisy images of 16 x 16 pixels."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tfos

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

SIDE, SHAPES = 16, 4
NOISE = 0.3
PARTITIONS = 4


class Images(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=20_000, help="for training")
        parser.add_argument("--epochs", type=int, default=6)
        parser.add_argument("--batch-size", type=int, default=64, help="rows per step")

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        """Feeds "train" and "test": pixels array<float>, shape int."""

        def images(first: int, rows: int) -> DataFrame:
            numbers = spark.range(first, first + rows, 1, PARTITIONS)
            return numbers.mapInPandas(draw_all, "pixels array<float>, shape int")

        rows = self.args.rows
        return {"train": images(0, rows), "test": images(rows, 4_000)}

    def train(self, ctx: Any) -> dict[str, Any]:
        """Trains and evaluates; accuracy on the test images."""
        import keras

        # the same number of rows in a step, however many workers take part in it
        batch_size = self.args.batch_size // ctx.strategy.num_replicas_in_sync
        train = ctx.dataset("train", batch_size, features="pixels", label="shape")
        test = ctx.dataset("test", 1000, features="pixels", label="shape", shuffle=False)
        keras.utils.set_random_seed(0)
        with ctx.strategy.scope():
            model = keras.Sequential(
                [
                    keras.Input((SIDE * SIDE,)),
                    keras.layers.Reshape((SIDE, SIDE, 1)),
                    keras.layers.Conv2D(16, 3, activation="relu"),
                    keras.layers.MaxPooling2D(),
                    keras.layers.Conv2D(32, 3, activation="relu"),
                    keras.layers.Flatten(),
                    keras.layers.Dense(SHAPES, activation="softmax"),
                ]
            )
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        ctx.fit(model, train, epochs=self.args.epochs)
        return {"test_accuracy": ctx.evaluate(model, test)["accuracy"]}


def draw(number: int) -> tuple[Any, int]:
    """Image number `number`, float32 [SIDE * SIDE], and its shape: a function of the number."""
    import numpy as np

    random = np.random.default_rng(number)
    shape = int(random.integers(SHAPES))
    radius = random.uniform(3, 6)
    x, y = np.indices((SIDE, SIDE)) - random.uniform(6, 9, (2, 1, 1))
    inside = [
        np.hypot(x, y) < radius,
        np.maximum(abs(x), abs(y)) < 0.9 * radius,
        abs(x) + abs(y) < 1.3 * radius,
        (np.minimum(abs(x), abs(y)) < radius / 3) & (np.maximum(abs(x), abs(y)) < radius),
    ][shape]
    return (inside + random.normal(0, NOISE, inside.shape)).astype("float32").ravel(), shape


def draw_all(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    import pandas as pd

    for batch in batches:
        pixels, shapes = zip(*map(draw, batch.id), strict=True)
        yield pd.DataFrame({"pixels": pixels, "shape": shapes})
