"""TFEstimator in a pipeline of pyspark.ml and in a cross-validation."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import APPS
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.ml.linalg import DenseVector
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

import tfos
from tfos.errors import UsageError
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory
from tfos.ml import TFEstimator, TFModel
from tfos.training.export import export_model
from tfos.training.serving import ServedFeatures

sys.path.insert(0, str(APPS))
from line import Centred, Line, line

pytest_plugins = ["sessions"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
RENAME = "select *, b as x, b as `net.delay` from __THIS__"


@pytest.fixture(scope="module")
def frame(spark):
    rows = spark.range(0, 1000, 1, 2).selectExpr(
        "id", "cast(id % 100 as float) / 100 as b", "2 * cast(id % 100 as float) / 100 as label"
    )
    return VectorAssembler(inputCols=["b"], outputCol="not to be fed").transform(rows)


def estimator(app, lake: Path, **options) -> TFEstimator:
    given = {"featuresCols": ["x"], "params": {"epochs": 1}, **options}
    return TFEstimator(app, lake=str(lake), strategy="single", **given)


def predictions(model, frame) -> list[float]:
    return [row.y for row in model.transform(frame).collect()]


def test_pipeline_is_fitted_saved_and_loaded(frame, tmp_path):
    stage = estimator(Centred, tmp_path, predictionCol="y")
    pipeline = Pipeline(stages=[SQLTransformer(statement=RENAME), stage])
    model = pipeline.fit(frame, {stage.epochs: 3})
    fitted = model.stages[1]
    mean = frame.agg({"b": "mean"}).first()[0]
    assert fitted.result["metrics"] == {"epochs": 3, "mean": mean}
    assert fitted.result["feeds"]["train"]["rows_trained"] == [1000] * 3
    assert fitted.uid == stage.uid
    assert fitted.uri == str(tmp_path / fitted.result["run_id"] / "model")

    assert model.transform(frame).schema["y"].dataType.simpleString() == "double"
    found = predictions(model, frame)
    x = np.array([row.b for row in frame.collect()], np.float32)
    direct = keras.saving.load_model(Path(fitted.uri, "model.keras")).predict({"x": x}, verbose=0)
    np.testing.assert_allclose(found, direct[:, 0], 1e-6, 1e-6)

    model.save(str(tmp_path / "saved-model"))
    loaded = PipelineModel.load(str(tmp_path / "saved-model"))
    assert predictions(loaded, frame) == found
    assert loaded.stages[1].result is None

    pipeline.save(str(tmp_path / "saved"))
    again = Pipeline.load(str(tmp_path / "saved")).getStages()[1]
    assert isinstance(again, TFEstimator)
    assert again.extractParamMap() == stage.extractParamMap()
    assert again._arguments() == stage._arguments()


def test_plain_model_and_app_that_exports_nothing(frame, tmp_path):
    renamed = frame.selectExpr("b as x", "label")
    job = {"lake": str(tmp_path), "strategy": "single"}
    plain = TFEstimator(
        model_fn=line, featuresCols=["x"], batchSize=32, validationSplit=0.1,
        params={"rate": 0.1}, predictionCol="y", **job,
    )  # fmt: skip
    plain.write().overwrite().save(str(tmp_path / "stage"))
    loaded = TFEstimator.load(str(tmp_path / "stage"))
    assert loaded.extractParamMap() == plain.extractParamMap()
    model = loaded.fit(renamed, {loaded.epochs: 20})
    assert model.result.metrics["val_loss"] < 0.01
    assert model.result.feeds["train"]["rows_trained"] == [900] * 20
    assert max(abs(row.y - row.label) for row in model.transform(renamed).collect()) < 0.3

    silent = TFEstimator(Line, params={"epochs": 1, "export": False}, **job).fit(renamed)
    assert silent.transform(renamed).count() == 1000


def test_function_in_place_of_an_app(frame, tmp_path):
    """Also from a lambda; looked at from outside, as another notebook would."""
    rate = 3

    def train(ctx):
        rows = sum(len(y) for _, y in ctx.dataset("train", 100, label="label"))
        print("counted")
        return {"rows": rows, "rate": rate, "n": ctx.params["n"]}

    job = {"lake": str(tmp_path), "strategy": "single"}
    data = frame.select("b", "label")
    result = tfos.run(train, data, params={"n": "3"}, **job)
    assert result.metrics == {"rows": 1000, "rate": 3, "n": "3"}
    (run,) = tfos.runs(str(tmp_path))
    assert run.run_id == result.run_id and result.run_id.startswith("train-")
    assert run.wait().metrics == result.metrics
    assert run.status().state == "succeeded"
    assert "counted" in list(run.logs("chief:0"))
    assert tfos.run(lambda ctx: 0.5, {"train": data}, **job)["metrics"] == {"returned": 0.5}


def state(session) -> dict:
    """What is the user's in a session, of which a run could make use."""
    return {
        "conf": session.conf.getAll,
        "environment": dict(os.environ),
        "module path": list(sys.path),
        "directory": os.getcwd(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "job group": session.sparkContext.getLocalProperty("spark.jobGroup.id"),
    }


def test_cross_validation(spark, frame, tmp_path):
    """Two runs at a time, with a column that has a dot in its name."""
    before = state(spark)
    stage = estimator(Line(), tmp_path, featuresCols=["net.delay"])
    validator = CrossValidator(
        estimator=Pipeline(stages=[SQLTransformer(statement=RENAME), stage]),
        estimatorParamMaps=ParamGridBuilder().addGrid(stage.epochs, [20, 1]).build(),
        evaluator=RegressionEvaluator(),
        numFolds=2,
        seed=1,
        parallelism=2,
    )
    best = validator.fit(frame)
    assert best.avgMetrics[0] < 0.05  # of labels from 0 to 2
    assert best.bestModel.stages[1].result["metrics"]["epochs"] == 20
    results = list(tmp_path.glob("*/result.json"))
    assert len(results) == 5  # a run for each fold and map, and one on all rows
    assert state(spark) == before


def test_evaluators_of_classifiers(spark, tmp_path):
    """TFModel's columns are as those of Spark ML's own models, whatever names stand beside them."""
    x = keras.Input((2,), name="x")
    rows = spark.range(40).selectExpr(
        "array(cast(id % 7 as float), cast(id % 5 as float)) as x",
        "cast(id % 7 < id % 5 as double) as label",
        "id as `a.b`",
        "id as k",
        "id as k",
    )
    uris = []
    for number, output in enumerate([keras.layers.Softmax()(x), keras.ops.argmax(x, axis=1)]):
        run = RunDirectory(str(tmp_path), f"run{number}")
        model = keras.Model({"x": x}, output)
        uris.append(
            export_model(
                model, ServedFeatures([Column("x", "float32", 2)]), run, str(tmp_path), None
            )
        )
    model = TFModel(uris[0])
    scored = model.transform(rows, {model.probabilityCol: "probability"})
    types = [kind for _, kind in scored.dtypes]
    assert types == ["array<float>", "double", "bigint", "bigint", "bigint", "vector", "double"]
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    assert evaluator.evaluate(scored) == 1.0
    assert 0 < evaluator.setMetricName("logLoss").evaluate(scored) < 0.5
    binary = BinaryClassificationEvaluator(rawPredictionCol="probability")
    assert binary.evaluate(scored) == 1.0
    vector = model.transform(rows).select("prediction").first().prediction
    assert isinstance(vector, DenseVector)

    classes = TFModel(uris[1])
    assert evaluator.setMetricName("accuracy").evaluate(classes.transform(rows)) == 1.0
    with pytest.raises(UsageError, match=r"the model gives (big)?int .*leave probabilityCol out"):
        classes.transform(rows, {classes.probabilityCol: "probability"})
