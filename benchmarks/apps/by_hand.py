"""The tables of steps.py in two jobs, without tfos: by_hand.py etl|train DIR

train prints the time at which its first steps were done.
"""

from __future__ import annotations

import sys
import time

ROWS, BATCH, FIRST_STEPS = 50 * 8192, 8192, 4
IDS, WIDTH = 200_000, 16
NAMES = ("user", "item")


def etl(directory: str) -> None:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    ids = [f"int(rand({n}) * {IDS}) as {name}" for n, name in enumerate(NAMES)]
    rows = spark.range(0, ROWS, 1, 2).selectExpr(*ids, "cast(id % 2 as float) as y")
    rows.write.parquet(f"{directory}/rows")
    spark.stop()


def train(directory: str) -> None:
    import keras
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(f"{directory}/rows").to_pandas()
    first = np.random.default_rng().permutation(len(table))[: FIRST_STEPS * BATCH]
    features = {name: table[name].to_numpy()[first] for name in NAMES}
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in NAMES}
    rows = [keras.layers.Embedding(IDS, WIDTH)(x) for x in inputs.values()]
    model = keras.Model(inputs, keras.layers.Dot(1)(rows))
    model.compile(keras.optimizers.Adagrad(0.01), "mse")
    model.fit(features, table["y"].to_numpy()[first], BATCH, verbose=0)
    print(time.time())


if __name__ == "__main__":
    {"etl": etl, "train": train}[sys.argv[1]](sys.argv[2])
