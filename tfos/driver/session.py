"""The Spark session of a run, and the JobSpec that its conf makes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import own_python
from tfos.driver import allocation
from tfos.driver.cluster import cluster_of
from tfos.driver.kubernetes import check_kubernetes
from tfos.runtime.java import find_java
from tfos.runtime.roles import local_master
from tfos.spec.job import JobSpec, job_spec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextlib.contextmanager
def open_session(
    app_name: str, spark: SparkSession | None, job: Mapping[str, Any]
) -> Iterator[tuple[SparkSession, JobSpec]]:
    """The session to run in: `spark`, else the active one, else a new one that ends with the block.

    job: the arguments of run(); they win over the conf. Raises UsageError;
    PreflightError where the session's executors could not come.
    """
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    spark = spark or SparkSession.getActiveSession()
    if spark is not None:
        with own_python(spark):
            yield spark, job_spec(_tfos_conf(spark), job)
        return
    if "SPARK_REMOTE" in os.environ:  # where pyspark itself looks for a Connect server
        spark = SparkSession.builder.getOrCreate()
        try:
            yield spark, job_spec(_tfos_conf(spark), job)
        finally:
            spark.stop()
        return
    find_java()
    with _our_python():
        conf = _launch_conf()
        spec = job_spec(dict(conf.getAll()), job)
        if _is_default_master(conf):
            conf.setMaster(local_master(spec))
            conf.set("spark.ui.showConsoleProgress", "false")
        settings = allocation.settings(spec, conf.get("spark.master", ""), dict(conf.getAll()))
        for key, value in settings.items():
            conf.set(key, value)
        conf.setIfMissing("spark.app.name", app_name)
        if conf.get("spark.master", "").startswith("k8s"):
            check_kubernetes(SparkContext._jvm, conf)
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
    try:
        yield spark, spec
    finally:
        spark.stop()


@contextlib.contextmanager
def _our_python() -> Iterator[None]:
    """A session that begins in the block has this Python on its executors, if the user names none.

    Spark reads it from the environment alone, once.
    """
    name = "PYSPARK_PYTHON"
    is_named = name in os.environ
    os.environ.setdefault(name, sys.executable)
    try:
        yield
    finally:
        if not is_named:
            del os.environ[name]


def _launch_conf() -> Any:
    """The SparkConf that this process was launched with: spark-submit's, or Spark's defaults."""
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # starts the JVM, which knows them
    return SparkConf()


def _is_default_master(conf: Any) -> bool:
    """Whether nobody named a master: a plain `python app.py`, where pyspark sets local[*]."""
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ or "PYSPARK_SUBMIT_ARGS" in os.environ
    return not submitted and conf.get("spark.master", "local[*]") == "local[*]"


def _tfos_conf(spark: SparkSession) -> dict[str, str]:
    """The spark.tfos.* settings of the application and, over them, of the session."""
    conf = dict(cluster_of(spark).conf)
    conf.update(getattr(spark.conf, "getAll", {}))
    return conf
