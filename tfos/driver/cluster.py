"""What the driver of a run needs of Spark, whichever way it speaks with it.

A session of this process has a SparkContext, and the driver's JVM with it. One of Spark Connect has
a server, which may be another machine's, and neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import threading

    from pyspark.sql import SparkSession


class Mapped(Protocol):
    """Tasks that are to be run."""

    def collect(self) -> list[Any]:
        """Runs them; blocks. Returns what they gave, in their order."""


class Tasks(Protocol):
    """Tasks, each with its number as its one row: an RDD is some."""

    def mapPartitions(  # noqa: N802
        self, function: Callable[[Iterator[int]], Iterable[Any]]
    ) -> Mapped:
        """`function` is called in each task with its rows, and gives what can be pickled."""


class Cluster(Protocol):
    """master: as --master has it. conf: the application's settings. application_id: Spark's.

    jvm: the driver's, None where it is not this process's. default_fs: Hadoop's fs.defaultFS, ""
    where it is not known.
    """

    @property
    def master(self) -> str: ...

    @property
    def conf(self) -> Mapping[str, str]: ...

    @property
    def application_id(self) -> str: ...

    @property
    def jvm(self) -> Any: ...

    @property
    def default_fs(self) -> str: ...

    def slots(self) -> int:
        """How many tasks can run at the same time, with the executors that there are now.

        Does not need one of them. Raises PreflightError where that is not to be known.
        """

    def tasks(self, count: int, barrier: bool = False) -> Tasks:
        """barrier: they begin together, and end when one of them fails."""

    def ship(self, name: str, archive: bytes) -> None:
        """Puts a zip file on the module path of the Python that Spark starts from here on.

        name: of the file, the same for the same content.
        """

    def group_jobs(self, group: str, words: str) -> None:
        """Jobs that this thread begins from here on can be cancelled. words: what they are."""

    def cancel(self, group: str) -> None:
        """Cancels the jobs of a group that are under way."""

    def ending_jobs(self, tag: str) -> contextlib.AbstractContextManager[None]:
        """Jobs begun in the block, by this thread and those it starts, end when it raises.

        A session that is the user's goes on, and so would they: Ctrl-C ends a wait for them alone.
        """

    def thread(self, target: Callable[[], object], name: str) -> threading.Thread:
        """A daemon thread whose jobs are this thread's as well. To be started."""


def cluster_of(spark: SparkSession) -> Cluster:
    if type(spark).__module__.startswith("pyspark.sql.connect."):
        from tfos.driver.connect import ConnectCluster

        return ConnectCluster(spark)
    from tfos.driver.classic import ClassicCluster

    return ClassicCluster(spark)
