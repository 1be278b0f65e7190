"""tfos.predict on real DataFrames."""

from __future__ import annotations

import os
import tempfile
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from pyspark.errors import PythonException
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import functions as F  # noqa: N812

import tfos
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory
from tfos.training.export import export_model
from tfos.training.serving import ServedFeatures

pytest_plugins = ["sessions"]
pytestmark = [pytest.mark.spark, pytest.mark.timeout(200)]
ROWS = 10_000


def export(directory: str, model: keras.Model, columns: list[Column]) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return export_model(
            model, ServedFeatures(columns), RunDirectory(directory, "run"), scratch, None
        )


@pytest.fixture(scope="module")
def model():
    """Of an id, three floats and the length of a ragged column: [batch, 1]."""
    keras.utils.set_random_seed(1)

    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(100, 4)
            self.hidden = keras.layers.Dense(8, activation="relu")
            self.last = keras.layers.Dense(1)

        def call(self, features):
            tags = tf.cast(features["tags"].row_lengths(), tf.float32)[:, tf.newaxis]
            parts = [self.table(features["item"]), features["x"], tags]
            return self.last(self.hidden(tf.concat(parts, axis=1)))

    model = Mixed()
    direct(model, [types.SimpleNamespace(item=1, x=[0.0] * 3, tags=["a"])])  # makes its variables
    return model


@pytest.fixture(scope="module")
def uri(tmp_path_factory, model):
    columns = [Column("item", "int64"), Column("x", "float32", 3), Column("tags", "string", -1)]
    return export(str(tmp_path_factory.mktemp("lake")), model, columns)


@pytest.fixture(scope="module")
def frame(spark):
    """Rows in seven partitions, some of them empty, with columns that no model takes."""
    rows = spark.range(0, ROWS, 1, 7).where("id < 6000 or id >= 8700").selectExpr(
        "id",
        "id % 100 as item",
        "transform(array(1, 2, 3), i -> cast(id % (7 * i) as float)) as x",
        "slice(array('a', 'b', 'c'), 1, cast(id % 4 as int)) as tags",
        "named_struct('n', id, 'l', array(named_struct('m', id))) as nested",
        "map('k', id) as attributes",
        "timestamp_seconds(id) as at",
        "cast(id as decimal(12, 2)) as price",
        "if(id % 5 = 0, null, id) as gaps",
    )  # fmt: skip
    return VectorAssembler(inputCols=["id", "item"], outputCol="vector").transform(rows)


def direct(model, rows):
    features = {
        "item": tf.constant([row.item for row in rows], tf.int64),
        "x": tf.constant([row.x for row in rows], tf.float32),
        "tags": tf.ragged.constant([row.tags for row in rows], dtype=tf.string, ragged_rank=1),
    }
    return model(features, training=False).numpy()[:, 0]


@pytest.mark.parametrize("batch_size", [1000, 4096])
def test_predictions_are_the_models(frame, model, uri, batch_size):
    predicted = tfos.predict(frame, uri, batch_size=batch_size)
    assert predicted.schema.fields[:-1] == frame.schema.fields
    assert predicted.schema["prediction"].dataType.simpleString() == "float"
    rows = predicted.withColumn("partition", F.spark_partition_id()).collect()
    before = frame.withColumn("partition", F.spark_partition_id()).collect()
    assert [row.asDict() | {"prediction": None} for row in rows] == [
        row.asDict() | {"prediction": None} for row in before
    ]
    assert {row.partition for row in rows} < set(range(7))  # some had no rows
    np.testing.assert_allclose([row.prediction for row in rows], direct(model, rows), 1e-6, 1e-6)


def test_is_a_transformation_like_others(spark, frame, uri):
    renamed = frame.withColumnRenamed("item", "product").withColumnRenamed("x", "prediction")
    twice = tfos.predict(
        renamed, uri, columns={"item": "product", "x": "prediction"}, output="first"
    )
    twice = tfos.predict(
        twice, f"file://{uri}", columns={"item": "product", "x": "prediction"}, output="second"
    )
    assert twice.where("first = second").count() == frame.count()
    assert tfos.predict(frame.where("id < 0"), uri).collect() == []
    frame.createOrReplaceTempView("frame")
    assert tfos.predict(spark.table("frame").limit(5), uri).agg(F.sum("prediction")).count() == 1


def test_structs_and_arrays_come_out(spark, tmp_path):
    x = keras.Input((2,), name="x")
    outputs = {"both": keras.layers.Rescaling(3.0)(x), "sum": keras.ops.sum(x, axis=1)}
    uri = export(str(tmp_path), keras.Model({"x": x}, outputs), [Column("x", "float32", 2)])
    frame = spark.range(0, 5, 1, 2).selectExpr(
        "named_struct('x', array(float(id), 1f), 'other', binary('?')) as point"
    )
    predicted = tfos.predict(frame, uri, columns={"x": "point.x"}, output="out")
    assert predicted.select("out").schema.simpleString() == (
        "struct<out:struct<both:array<float>,sum:float>>"
    )
    assert [(row.both, row["sum"]) for row in predicted.select("out.*").collect()] == [
        ([3.0 * i, 3.0], i + 1.0) for i in range(5)
    ]


def test_bad_row_fails_the_job_by_name(frame, uri):
    bad = frame.withColumn("x", F.expr("if(id = 9000, array(1f), x)"))
    predicted = tfos.predict(bad, uri)  # lazy: nothing has failed yet
    with pytest.raises(PythonException) as caught:
        predicted.collect()
    # the seventh partition holds the ids from 8,571 on, of which those below 8,700 are left out
    assert "'x' has 1 values where the model takes 3 in row 300 of partition 6" in str(caught.value)


def test_new_model_at_the_same_place(spark, tmp_path):
    x = keras.Input((), name="x")
    frame = spark.range(0, 10, 1, 2).selectExpr("cast(id as float) as x")
    found = []
    for scale in (2.0, 3.0):
        model = keras.Model({"x": x}, keras.layers.Rescaling(scale)(x))
        uri = export(str(tmp_path), model, [Column("x", "float32")])
        found.append([row.prediction for row in tfos.predict(frame, uri).collect()])
    assert found == [[scale * i for i in range(10)] for scale in (2.0, 3.0)]


def test_workers_leave_no_files(spark, frame, uri):
    tfos.predict(frame, uri).count()
    places = spark.sparkContext.parallelize([0], 1).map(lambda _: os.environ["SPARK_LOCAL_DIRS"])
    assert [*Path(places.first()).glob("tfos-model-*"), *Path("/tmp").glob("tfos-model-*")] == []
