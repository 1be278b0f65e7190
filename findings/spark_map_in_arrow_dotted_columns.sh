#!/usr/bin/env bash
# Spark's mapInArrow, mapInPandas and dropna refuse a DataFrame that has a column with a dot.
#
# Version: pyspark 4.3.0.
# Expected: what takes whole rows has nothing to look up by name: as collect, fillna, write and
#   toArrow, none of which minds a column named "price.usd".
# Seen: UNRESOLVED_COLUMN for `price`.`usd`: each column of the input is resolved anew by its unquoted
#   name. toDF(*names without dots) first is a way out.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyspark==4.3.0 pyarrow==26.0.1 pandas==2.3.3
cd "$work"
cat > try.py <<'PY'
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
frame = spark.createDataFrame([(1, 2.0)], ["id", "price.usd"])
acts = {
    "collect": lambda: frame.collect(),
    "fillna": lambda: frame.fillna(0.0).collect(),
    "toArrow": lambda: frame.toArrow(),
    "write": lambda: frame.write.parquet("out"),
    "mapInArrow": lambda: frame.mapInArrow(lambda batches: batches, frame.schema).collect(),
    "mapInPandas": lambda: frame.mapInPandas(lambda frames: frames, frame.schema).collect(),
    "dropna": lambda: frame.dropna().collect(),
}
refused = []
for name, act in acts.items():
    try:
        act()
        print(f"{name}: works")
    except AnalysisException as error:
        print(f"{name}: {str(error).splitlines()[0][:120]}")
        refused.append(name)
spark.stop()
assert refused == ["mapInArrow", "mapInPandas", "dropna"], "it is otherwise now"
PY
PYSPARK_PYTHON="$work/venv/bin/python" "$work/venv/bin/python" try.py 2>/dev/null
