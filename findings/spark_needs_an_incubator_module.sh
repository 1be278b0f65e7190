#!/usr/bin/env bash
# Spark does not start on a JRE that lacks an incubator module, whatever the application does.
#
# Version: pyspark 4.3.0, a JDK 17 with jlink.
# Expected: a JRE that jlink makes of java.se, jdk.unsupported and the JDK's modules for security runs a
#   job that counts: an incubator module is no part of Java SE, and JREs need not have one.
# Seen: spark-submit adds --add-modules=jdk.incubator.vector to each JVM, which ends before it has begun:
#   "Module jdk.incubator.vector not found". With that module in it, too, the same program runs.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyspark==4.3.0
modules=java.se,jdk.unsupported,jdk.crypto.ec,jdk.security.auth,jdk.security.jgss
for name in without with; do
  jlink --output "$work/$name" --no-header-files --no-man-pages --add-modules "$modules" 2>"$work/jlink.log" ||
    { cat "$work/jlink.log"; exit 1; }
  modules=$modules,jdk.incubator.vector
done
cat > "$work/try.py" <<'PY'
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
print("sum:", spark.range(10).selectExpr("sum(id)").collect()[0][0])
PY
for name in without with; do
  status=0
  JAVA_HOME=$work/$name SPARK_LOCAL_IP=127.0.0.1 "$work/venv/bin/python" "$work/try.py" \
    >"$work/$name.log" 2>&1 || status=$?
  echo "$name the module: status $status, $(grep -m1 -E 'sum:|FindException' "$work/$name.log")"
done
grep -q 'Module jdk.incubator.vector not found' "$work/without.log"
grep -q 'sum: 45' "$work/with.log"
