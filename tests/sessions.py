"""A Spark session in the test process. A pytest plugin of few tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from conftest import SHARED, our_processes, poll
from pyspark import SparkContext
from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A local session with two slots; nothing of it is left after the module."""
    before = set(our_processes())
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    yield session
    session.stop()
    # the JVM of a Python process goes with it, or when its stdin closes
    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    gateway.shutdown()
    gateway.proc.stdin.close()
    # what the module's other tests have begun for all modules goes on
    poll(
        lambda: not set(our_processes()) - before - SHARED,
        30,
        "the session's processes have ended",
    )
