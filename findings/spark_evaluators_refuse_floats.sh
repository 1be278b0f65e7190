#!/usr/bin/env bash
# Spark ML's evaluators do not agree on whether a prediction may be a float.
#
# Version: pyspark 4.3.0.
# Expected: a numeric column is a prediction, whatever its width: RegressionEvaluator takes float and
#   double.
# Seen: MulticlassClassificationEvaluator and BinaryClassificationEvaluator refuse a float with
#   "must be of type ... double". So the predictions of a float32 model work in one kind of pipeline
#   and fail in the other, at the end of the tuning.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyspark==4.3.0 numpy==2.4.6
cd "$work"
cat > try.py <<'PY'
from pyspark.errors import IllegalArgumentException
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
found = {}
for evaluator in (
    RegressionEvaluator(),
    MulticlassClassificationEvaluator(),
    BinaryClassificationEvaluator(rawPredictionCol="prediction"),
):
    for dtype in ("float", "double"):
        frame = spark.range(4).select(
            (F.col("id") % 2).cast("double").alias("label"), F.lit(1).cast(dtype).alias("prediction")
        )
        try:
            evaluator.evaluate(frame)
            found[type(evaluator).__name__, dtype] = "works"
        except IllegalArgumentException as error:
            found[type(evaluator).__name__, dtype] = str(error).splitlines()[0][:100]
        print(type(evaluator).__name__, dtype, "->", found[type(evaluator).__name__, dtype])
spark.stop()
refused = sorted(name for (name, dtype), text in found.items() if text != "works")
assert refused == ["BinaryClassificationEvaluator", "MulticlassClassificationEvaluator"], refused
PY
PYSPARK_PYTHON="$work/venv/bin/python" "$work/venv/bin/python" try.py 2>/dev/null
