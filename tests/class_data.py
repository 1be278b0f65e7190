"""A class data archive for the JVMs of the tests: they start in half the time.

Most of what a JVM of Spark does in its first seconds is to load and to verify classes. An archive
of them is made once, by a small job, and kept in the user's cache; a JVM that it does not fit goes
without. (Java's documentation: "Class Data Sharing", dynamic archives.)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

# a JVM that compiles little is started and ended sooner, and leaves the cores to what is tested
COMPILE_LITTLE = "-XX:TieredStopAtLevel=1"
_SILENT = "-Xlog:cds=off -Xlog:cds+dynamic=off"
_JOB = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
rows = spark.range(1000, numPartitions=2).selectExpr("id % 7 as k", "cast(id as string) as s")
rows.groupBy("k").count().collect()
rows.mapInArrow(lambda batches: batches, "k long, s string").collect()
spark.stop()
"""


def java_options() -> str:
    """Options for JVMs that run Spark; makes the archive where there is none yet. Blocks."""
    from tfos.runtime.java import find_java, spark_home

    version = subprocess.run([find_java(), "-version"], capture_output=True, text=True).stderr
    # with the same jars, but put there at another time, it would not fit
    jars = (spark_home() / "jars").stat().st_mtime_ns
    key = hashlib.sha256(f"{version}{spark_home()}{jars}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfos-tests")
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"spark-{key}.jsa"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(archive, spark_home())
    return f"{COMPILE_LITTLE} -XX:SharedArchiveFile={archive} {_SILENT}"


def _make(archive: Path, home: Path) -> None:
    part, job = archive.with_suffix(".part"), archive.with_suffix(".py")
    part.unlink(missing_ok=True)
    job.write_text(_JOB)
    options = f"{COMPILE_LITTLE} -XX:ArchiveClassesAtExit={part} {_SILENT}"
    subprocess.run(
        [str(home / "bin" / "spark-submit"), "--master", "local[2]", str(job)],
        env={**os.environ, "SPARK_SUBMIT_OPTS": options, "PYSPARK_PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=300,
    )
    part.rename(archive)
