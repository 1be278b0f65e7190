"""Runs in the image: uses what an app may use, and prints what came of it as one line of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"


def as_whom() -> dict[str, Any]:
    """Who runs it, and that pip finds nothing wrong with what is installed."""
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    return {"uid": os.getuid(), "python": sys.executable, "pip": check.stdout.strip()}


def tensorflow() -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("adam", "mse", jit_compile=True)  # by XLA
    model.fit(np.ones((8, 3)), np.full((8, 1), 3.0), verbose=0)
    model.export("exported", verbose=False)
    exported = tf.saved_model.load("exported")
    served = exported.serve(np.ones((4, 3), "float32"))
    lite = tf.lite.TFLiteConverter.from_saved_model("exported").convert()
    tf.profiler.experimental.start("profile")
    tf.profiler.experimental.stop()
    return {
        "sum": float(tf.reduce_sum(tf.constant([1.0, 2.0, 3.0]))),
        "served": list(served.shape),
        "lite": len(lite) > 100,
        "version": importlib.metadata.version("tensorflow") == tf.__version__,
    }


def spark() -> dict[str, Any]:
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import LinearRegression
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", os.path.abspath("warehouse"))
        .config("spark.driver.extraJavaOptions", f"-Dderby.system.home={os.getcwd()}")
        .enableHiveSupport()
        .getOrCreate()
    )
    codecs = ("snappy", "zstd", "gzip", "lz4_raw")
    for codec in codecs:
        session.range(100).write.option("compression", codec).parquet(f"rows-{codec}")
    rows = session.read.parquet(*(f"rows-{codec}" for codec in codecs))

    def same(batches: Iterator[Any]) -> Iterator[Any]:
        yield from batches

    mapped = rows.mapInArrow(same, "id long").toArrow()
    rows.write.saveAsTable("kept")
    points = session.createDataFrame([(float(i), 2.0 * i) for i in range(20)], "x double, y double")
    points = VectorAssembler(inputCols=["x"], outputCol="v").transform(points)
    session.conf.set(
        "spark.sql.streaming.stateStore.providerClass",
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
    )
    stream = session.readStream.schema("id long").parquet("rows-zstd").groupBy("id").count()
    counts = stream.writeStream.outputMode("complete").format("memory").queryName("counts")
    counts = counts.option("checkpointLocation", "stream").trigger(availableNow=True)
    counts.start().awaitTermination()
    done = {
        "parquet": rows.agg({"id": "sum"}).collect()[0][0],
        "arrow": sum(mapped["id"].to_pylist()),
        "hive": session.sql("select count(*) from kept").collect()[0][0],
        "rocksdb": session.table("counts").count(),
        "mllib": round(LinearRegression(featuresCol="v", labelCol="y").fit(points).coefficients[0]),
    }
    session.stop()
    return done


def zookeeper() -> dict[str, Any]:
    from kazoo.client import KazooClient

    from tfos.runtime.zookeeper import EmbeddedZooKeeper

    server = EmbeddedZooKeeper("127.0.0.1")
    server.wait()
    client = KazooClient(server.hosts)
    client.start()
    client.create("/a", b"hello")
    said = client.get("/a")[0].decode()
    client.stop()
    server.stop()
    return {"said": said}


def lakes() -> dict[str, Any]:
    """A lake in S3 (of AWS_ENDPOINT_URL); HDFS's client up to where a NameNode would be."""
    import fsspec

    from tfos.lake.storage import Storage

    lake = Storage(f"s3://{os.environ['BUCKET']}/run")
    lake.write_json("value.json", {"number": 7})

    try:
        fsspec.filesystem("hdfs", host="127.0.0.1", port=1).ls("/")
        told = "a NameNode answered"
    except Exception as error:
        told = str(error)
    return {"s3": lake.read_json("value.json")["number"], "hdfs": "refused" in told.lower() or told}


def startup() -> dict[str, Any]:
    """What is imported is byte-compiled, and was compiled by the build."""
    code = """
import os, sys
import tensorflow, keras, pyspark.worker, tfos.runtime.main
for module in list(sys.modules.values()):
    file, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
    if file and cached and file.startswith("/opt/tfos") and not os.path.exists(cached):
        print(file)
"""
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(f"imports: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return {"uncompiled": ended.stdout.split(), "status": ended.returncode}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        parts = (as_whom, startup, tensorflow, spark, zookeeper, lakes)
        print(json.dumps({part.__name__: part() for part in parts}))
        os.chdir("/")


if __name__ == "__main__":
    main()
