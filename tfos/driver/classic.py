"""A session with the driver's JVM in it: see cluster.py."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tfos.driver.cluster import Tasks

# runs of one session may come here at the same time
_shipping = threading.Lock()


class ClassicCluster:
    """Through the session's SparkContext."""

    def __init__(self, spark: SparkSession) -> None:
        self._context = spark.sparkContext

    @property
    def master(self) -> str:
        return str(self._context.master)

    @property
    def conf(self) -> Mapping[str, str]:
        return dict(self._context.getConf().getAll())

    @property
    def application_id(self) -> str:
        return str(self._context.applicationId)

    @property
    def jvm(self) -> Any:
        return self._context._jvm

    @property
    def default_fs(self) -> str:
        hadoop: Any = self._context._jsc.hadoopConfiguration()  # type: ignore[union-attr]
        return str(hadoop.get("fs.defaultFS"))

    def slots(self) -> int:
        scala_context: Any = self._context._jsc.sc()  # type: ignore[union-attr]
        profile = scala_context.resourceProfileManager().defaultResourceProfile()
        return int(scala_context.maxNumConcurrentTasks(profile))

    def tasks(self, count: int, barrier: bool = False) -> Tasks:
        rows: Any = self._context.parallelize(range(count), count)
        return rows.barrier() if barrier else rows

    def ship(self, name: str, archive: bytes) -> None:
        from pyspark import SparkFiles

        # Spark serves the file from where it lies for as long as the application lives, and removes
        # this directory with it. Further runs of the session ship the same one no second time
        home = Path(SparkFiles.getRootDirectory())
        bundle = home.parent / name
        with _shipping:
            if bundle.exists():
                return
            bundle.write_bytes(archive)
            self._context.addPyFile(str(bundle))
            # Spark puts its copy here, too, where it would hide what the user edits in a notebook
            with_it = str(home / bundle.name)
            if with_it in sys.path:
                sys.path.remove(with_it)

    def group_jobs(self, group: str, words: str) -> None:
        self._context.setJobGroup(group, words, True)

    def cancel(self, group: str) -> None:
        self._context.cancelJobGroup(group)

    @contextlib.contextmanager
    def ending_jobs(self, tag: str) -> Iterator[None]:
        # beside the group, which may be the user's own
        self._context.addJobTag(tag)
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # the Spark context may be gone already
                self._context.cancelJobsWithTag(tag)
            raise
        finally:
            with contextlib.suppress(Exception):
                self._context.removeJobTag(tag)

    def thread(self, target: Callable[[], object], name: str) -> threading.Thread:
        from pyspark import InheritableThread

        return InheritableThread(target=target, name=name, daemon=True)
