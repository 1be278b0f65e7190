"""How fast a DataFrame becomes tensors: the first epoch, later ones, and by other ways."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = 13
# of the slow ways, so many rows are enough to see how slow
FEW_ROWS = 200_000
# of arrays in memory
ARRAY_ROWS = 2_000_000


class Feed(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=20_000_000)
        parser.add_argument("--batch-size", type=int, default=8192)
        parser.add_argument("--epochs", type=int, default=4)
        parser.add_argument("--alternatives", action="store_true", help="time other ways, too")

    def pre_train(self, spark: SparkSession) -> DataFrame:
        begun = time.monotonic()
        numbers = [f"cast(id * {n + 1} as double) as x{n}" for n in range(COLUMNS - 1)]
        frame = spark.range(0, self.args.rows, 1, 8).selectExpr(*numbers, "id as y")

        def consume(batches: Any) -> Iterator[Any]:
            import pyarrow as pa

            count = sum(batch.num_rows for batch in batches)
            yield pa.RecordBatch.from_pydict({"n": [count]})

        def no_op() -> float:
            start = time.monotonic()
            assert frame.mapInArrow(consume, "n long").groupBy().sum("n").first()[0]
            return time.monotonic() - start

        self.parquet = self.records = ""
        if self.args.alternatives:
            no_op()
            self.no_op_secs = no_op()
            few = frame.limit(FEW_ROWS).repartition(2).cache()
            few.count()
            self.parquet = tempfile.mkdtemp(prefix="tfos-parquet-")
            self.parquet_secs = _timed(lambda: frame.write.mode("overwrite").parquet(self.parquet))
            self.queue_secs = _timed(lambda: _through_queue(few))
            self.records = tempfile.mkdtemp(prefix="tfos-records-")
            self.records_secs = _timed(lambda: _write_records(few, self.records))
        self.pre_train_secs = time.monotonic() - begun
        return frame

    def shutdown(self) -> None:
        for path in (self.parquet, self.records):
            if path:
                shutil.rmtree(path, ignore_errors=True)

    def train(self, ctx: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"pre_train_secs": self.pre_train_secs}
        rss = []
        for shuffle in (False, True):
            dataset = ctx.dataset("train", self.args.batch_size, label="y", shuffle=shuffle)
            dataset.wait_complete()
            for epoch in range(self.args.epochs):
                secs = _timed(_consumer(dataset.positions(0, dataset.rows, epoch)))
                found.setdefault("shuffled" if shuffle else "in_order", []).append(secs)
                rss.append(psutil.Process().memory_info().rss >> 20)
                ctx.report()
        found["rss_mib"] = rss
        if self.args.alternatives:
            found["no_op_rows_per_sec"] = self.args.rows / self.no_op_secs
            memory = _in_memory(self.args.rows, self.args.batch_size)
            found["in_memory_secs"] = [_timed(_consumer(memory)) for _ in range(3)]
            arrays = _arrays(self.args.batch_size)
            found["array_rows"] = ARRAY_ROWS
            found["arrays_secs"] = [_timed(_consumer(arrays)) for _ in range(3)]
            found["parquet_secs"] = [self.parquet_secs, _timed(lambda: _read_parquet(self.parquet))]
            found["queue_rows_per_sec"] = FEW_ROWS / self.queue_secs
            read = _timed(_consumer(_records(self.records, self.args.batch_size)))
            found["records_rows_per_sec"] = [FEW_ROWS / self.records_secs, FEW_ROWS / read]
        return found


def _timed(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _consumer(dataset: Any) -> Callable[[], None]:
    """Goes through all batches, in TensorFlow's own loop; a number of each tensor is looked at.

    What it returns is traced already.
    """
    import tensorflow as tf

    @tf.function
    def run(data: Any) -> Any:
        total = tf.constant(0.0, tf.float64)
        for features, label in data:
            for tensor in [*features.values(), label]:
                total += tf.cast(tensor[0], tf.float64)
        return total

    traced = run.get_concrete_function(dataset)
    return lambda: traced(dataset).numpy()


def _in_memory(rows: int, batch_size: int) -> Any:
    import tensorflow as tf

    batches = min(rows, 4_000_000) // batch_size
    columns = {f"x{n}": tf.random.uniform([batches, batch_size], dtype=tf.float64)
               for n in range(COLUMNS - 1)}  # fmt: skip
    label = tf.zeros([batches, batch_size], tf.int64)
    data = tf.data.Dataset.from_tensor_slices((columns, label))
    return data.repeat(-(-rows // (batches * batch_size))).take(-(-rows // batch_size)).prefetch(2)


def _arrays(batch_size: int) -> Any:
    """The dataset that Keras makes of arrays, shuffled, in Model.fit(arrays)."""
    import numpy as np
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

    random = np.random.default_rng(0)
    columns = {f"x{n}": random.random(ARRAY_ROWS) for n in range(COLUMNS - 1)}
    label = np.zeros(ARRAY_ROWS, np.int64)
    adapter = ArrayDataAdapter(columns, label, batch_size=batch_size, shuffle=True)
    return adapter.get_tf_dataset()


def _through_queue(frame: DataFrame) -> None:
    """A row at a time through a queue of a manager process, as older libraries do it."""
    import multiprocessing
    import queue
    import threading
    from multiprocessing.managers import BaseManager

    class Manager(BaseManager):
        pass

    rows: Any = queue.Queue(10_000)
    Manager.register("rows", callable=lambda: rows)
    manager = Manager(("127.0.0.1", 0), b"tfos")
    manager.start()
    address, count = manager.address, frame.count()

    def put(partition: Iterator[Any]) -> None:
        class Client(BaseManager):
            pass

        Client.register("rows")
        client = Client(address, b"tfos")
        multiprocessing.current_process().authkey = b"tfos"
        client.connect()
        target = client.rows()  # type: ignore[attr-defined]
        for row in partition:
            target.put(tuple(row))

    source = manager.rows()  # type: ignore[attr-defined]
    feeder = threading.Thread(target=lambda: frame.foreachPartition(put))
    feeder.start()
    for _ in range(count):
        source.get()
    feeder.join()
    manager.shutdown()


def _read_parquet(path: str) -> None:
    import pyarrow.dataset

    for batch in pyarrow.dataset.dataset(path, format="parquet").to_batches():
        for column in batch.columns:
            column.to_numpy(zero_copy_only=False)


def _write_records(frame: DataFrame, path: str) -> None:
    def write(partition: Iterator[Any]) -> None:
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(Path(path, f"{os.getpid()}-{time.monotonic_ns()}"))) as out:
            for row in partition:
                values = row.asDict()
                label = values.pop("y")
                features = {
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
                    for name, value in values.items()
                }
                features["y"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
                example = tf.train.Example(features=tf.train.Features(feature=features))
                out.write(example.SerializeToString())

    frame.foreachPartition(write)


def _records(path: str, batch_size: int) -> Any:
    import tensorflow as tf

    spec: dict[str, Any] = {
        f"x{n}": tf.io.FixedLenFeature([], tf.float32) for n in range(COLUMNS - 1)
    }
    spec["y"] = tf.io.FixedLenFeature([], tf.int64)

    def parse(batch: Any) -> tuple[Any, Any]:
        values = tf.io.parse_example(batch, spec)
        label = values.pop("y")
        return values, label

    files = [str(file) for file in Path(path).iterdir()]
    return tf.data.TFRecordDataset(files).batch(batch_size).map(parse).prefetch(2)
