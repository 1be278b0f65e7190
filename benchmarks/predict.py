"""tfos.predict against the UDF one would write: python benchmarks/predict.py [--quick]

A Keras model (two ids in embeddings, eight floats, an MLP) is applied to generated rows, on this
machine, with one Spark slot per core:

  tfos.predict     the exported model
  call, predict    an iterator pandas UDF that loads the Keras file once per Python worker and, for
                   each batch that Spark gives it, calls model(...) or model.predict(...)
  no model         the rows to Python and back, as tfos.predict takes them

All of them run in turn, several times, after they were seen to give the same predictions. The first
turn does not count. What is written is thrown away (Spark's noop format).
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

import tfos

IDS, FLOATS = ("user", "item"), tuple(f"x{i}" for i in range(8))
IDS_RANGE = 10_000


def export(directory: str) -> str:
    """Writes the model with random weights; returns its URI."""
    import keras

    from tfos.feeding.schema import Column
    from tfos.lake.run_directory import RunDirectory
    from tfos.training.export import export_model
    from tfos.training.serving import ServedFeatures

    inputs = {name: keras.Input((), dtype="int64", name=name) for name in IDS}
    inputs |= {name: keras.Input((), name=name) for name in FLOATS}
    parts = [keras.layers.Embedding(IDS_RANGE, 16)(inputs[name]) for name in IDS]
    dot = keras.layers.Dot(1)(parts)
    parts += [keras.layers.Reshape((1,))(inputs[name]) for name in FLOATS]
    hidden = keras.layers.Concatenate()([*parts, dot])
    for units in (64, 32):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    columns = [Column(name, "int64") for name in IDS] + [Column(name, "float32") for name in FLOATS]
    return export_model(
        model, ServedFeatures(columns), RunDirectory(directory, "run"), directory, None
    )


@functools.cache
def load(uri: str) -> Any:
    import keras

    return keras.saving.load_model(f"{uri}/model.keras", compile=False)


def apply(uri: str, method: str, batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
    """The body of the UDF: columns in, predictions out."""
    model = load(uri)
    for batch in batches:
        features = {n: c.to_numpy() for n, c in zip((*IDS, *FLOATS), batch, strict=True)}
        if method == "call":
            outputs = model(features, training=False).numpy()
        else:
            outputs = model.predict(features, batch_size=len(batch[0]), verbose=0)
        yield pd.Series(outputs[:, 0])


def with_udf(df: Any, uri: str, method: str) -> Any:
    from pyspark.sql.functions import pandas_udf

    @pandas_udf("float")
    def udf(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        from predict import apply  # as a module, whose cache lives as long as the worker

        yield from apply(uri, method, batches)

    return df.withColumn("prediction", udf(*IDS, *FLOATS))


def seconds(df: Any) -> float:
    begun = time.monotonic()
    df.write.format("noop").mode("overwrite").save()
    return time.monotonic() - begun


def predictions(df: Any) -> list[float]:
    return [row.prediction for row in df.where("id < 1000").orderBy("id").collect()]


def check_equal(found: list[list[float]]) -> None:
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns")
    quick = parser.parse_args().quick
    rows, turns = (200_000, 3) if quick else (2_000_000, 5)
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    cores = len(os.sched_getaffinity(0))
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.addPyFile(__file__)
    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as directory:
        uri = export(directory)
        ids = [f"cast(rand({i}) * {IDS_RANGE} as bigint) as {name}" for i, name in enumerate(IDS)]
        floats = [f"cast(rand({i}) as float) as {name}" for i, name in enumerate(FLOATS, 9)]
        path = f"{directory}/rows"
        spark.range(0, rows, 1, 4 * cores).selectExpr("id", *ids, *floats).write.parquet(path)
        df = spark.read.parquet(path)
        frames = {
            "tfos.predict": tfos.predict(df, uri),
            "pandas UDF, call": with_udf(df, uri, "call"),
            "pandas UDF, predict": with_udf(df, uri, "predict"),
        }
        check_equal([predictions(frame) for frame in frames.values()])
        frames["no model"] = df.mapInArrow(lambda batches: batches, df.schema)
        taken: dict[str, list[float]] = {name: [] for name in frames}
        for turn in range(turns + 1):
            for name, frame in frames.items():
                taken[name].append(seconds(frame))
            print(
                f"turn {turn}:", *(f"{name} {t[-1]:.2f} s" for name, t in taken.items()), sep="  "
            )
    spark.stop()
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    print(f"\n{rows:,} rows, {cores} slots, medians of {turns}:")
    for name, secs in medians.items():
        ratio = secs / medians["tfos.predict"]
        print(f"  {name:20s} {secs:7.2f} s  {rows / secs:12,.0f} rows/s  {ratio:5.2f}x")


if __name__ == "__main__":
    main()
