"""A snapshot of the store and the deltas to it, as Spark reads them."""

from __future__ import annotations

import numpy as np
import pytest

from tfos.kv.optimizers import Adagrad
from tfos.kv.snapshot import save
from tfos.kv.spec import TableSpec
from tfos.kv.store import Store
from tfos.lake.storage import Storage

pytest_plugins = ["sessions"]
pytestmark = [pytest.mark.spark, pytest.mark.timeout(120)]


def test_the_newest_of_rows_with_one_key_counts(spark, tmp_path):
    from pyspark.sql.functions import max_by

    store, storage = Store(), Storage(str(tmp_path))
    table = store.at(store.table(TableSpec("model0/table0", 2, Adagrad(0.1))))
    table.push(np.arange(100), np.ones((100, 2), np.float32))
    full = save(store, storage, "full", "ps-0")
    table.push(np.arange(90, 110), np.ones((20, 2), np.float32))
    save(store, storage, "delta", "ps-0", full)
    paths = [f"{tmp_path}/{name}/model0%2Ftable0" for name in ("full", "delta")]
    rows = spark.read.option("recursiveFileLookup", True).parquet(*paths)
    rows = rows.groupBy("key").agg(max_by("weights", "changed").alias("w"))
    found = {row.key: row.w for row in rows.collect()}
    assert sorted(found) == list(range(110))
    expected = table.pull(np.arange(110))
    np.testing.assert_array_equal([found[key] for key in range(110)], expected)
