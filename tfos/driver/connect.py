"""A session of Spark Connect: see cluster.py."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import splits_of_range
from tfos.errors import PreflightError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# which decide on the number that slots() reads
_PARALLELISM = ("spark.default.parallelism", "spark.sql.leafNodeDefaultParallelism")

# half a minute for a call; the client's default is ten, and a server that is started again has lost
# its sessions
_RETRIES = {"max_retries": 9, "max_backoff": 5000}
_CANCEL_SECS = 5.0


class ConnectCluster:
    """Through DataFrames, artifacts and tags, which is all that the protocol has."""

    jvm = None
    default_fs = ""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        if not hasattr(type(spark.conf), "getAll"):
            raise PreflightError(
                f"a session of Spark Connect of Spark {spark.version} does not tell its settings:"
                " use Spark 4 or newer, or a session with a SparkContext"
            )

    @property
    def master(self) -> str:
        return self.conf.get("spark.master", "")

    @property
    def conf(self) -> Mapping[str, str]:
        with _asking():
            return dict(self._spark.conf.getAll)

    @property
    def application_id(self) -> str:
        return self.conf.get("spark.app.id", "")

    def slots(self) -> int:
        conf = self.conf
        for name in _PARALLELISM:
            if name in conf:
                raise PreflightError(
                    f"{name} is {conf[name]}, and under Spark Connect it hides how many slots the"
                    " cluster has: leave it unset for a run"
                )
        with _asking():
            cores = splits_of_range(self._spark)
        return cores // int(conf.get("spark.task.cpus", 1))

    def tasks(self, count: int, barrier: bool = False) -> _Tasks:
        return _Tasks(self._spark, count, barrier)

    def ship(self, name: str, archive: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="tfos-") as folder:
            bundle = Path(folder, name)
            bundle.write_bytes(archive)
            self._spark.addArtifacts(str(bundle), pyfile=True)

    def group_jobs(self, group: str, words: str) -> None:
        self._spark.addTag(group)

    def cancel(self, group: str) -> None:
        def ask() -> None:
            with contextlib.suppress(Exception):  # the server may be gone already
                self._spark.interruptTag(group)

        # it would be asked for as long as its client tries
        asking = threading.Thread(target=ask, name="tfos-cancel", daemon=True)
        asking.start()
        asking.join(_CANCEL_SECS)

    @contextlib.contextmanager
    def ending_jobs(self, tag: str) -> Iterator[None]:
        with impatient(self._spark.client):
            self._spark.addTag(tag)
            try:
                yield
            except BaseException:
                self.cancel(tag)
                raise
            finally:
                self._spark.removeTag(tag)

    def thread(self, target: Callable[[], object], name: str) -> threading.Thread:
        tags = self._spark.getTags()

        def run() -> None:
            for tag in tags:
                self._spark.addTag(tag)
            target()

        return threading.Thread(target=run, name=name, daemon=True)


# of each client with runs: how many, and its own retries
_held: dict[int, tuple[int, Any]] = {}
_holding = threading.Lock()


@contextlib.contextmanager
def impatient(client: Any) -> Iterator[None]:
    """In the block a server that is gone is tried for half a minute, not for ten.

    client: of a session, whose retries are the user's again when the last of its blocks ends.
    """
    from pyspark.sql.connect.client.retries import DefaultPolicy

    with _holding:
        count, own = _held.get(id(client), (0, None))
        if not count:
            own = client.get_retry_policies()
            client.set_retry_policies([DefaultPolicy(**_RETRIES)])
        _held[id(client)] = count + 1, own
    try:
        yield
    finally:
        with _holding:
            count, own = _held.pop(id(client))
            if count > 1:
                _held[id(client)] = count - 1, own
            else:
                client.set_retry_policies(own)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PreflightError(
            f"the Spark Connect server does not answer ({type(error).__name__})"
        ) from error


class _Tasks:
    """What an RDD is to a SparkContext; of one column of what the tasks gave, pickled."""

    def __init__(
        self, spark: SparkSession, count: int, barrier: bool, function: Any = None
    ) -> None:
        self._spark, self._count, self._barrier = spark, count, barrier
        self._function = function

    def mapPartitions(  # noqa: N802
        self, function: Callable[[Iterator[int]], Iterable[Any]]
    ) -> _Tasks:
        return _Tasks(self._spark, self._count, self._barrier, function)

    def collect(self) -> list[Any]:
        function = self._function

        def task(batches: Iterator[Any]) -> Iterator[Any]:
            import pyarrow as pa
            from pyspark import cloudpickle

            rows = [row for batch in batches for row in batch.column(0).to_pylist()]
            given = [cloudpickle.dumps(each) for each in function(iter(rows))]
            yield pa.RecordBatch.from_pydict({"given": pa.array(given, pa.binary())})

        numbers = self._spark.range(0, self._count, 1, self._count)
        rows = numbers.mapInArrow(task, "given binary", barrier=self._barrier).collect()
        return [pickle.loads(row.given) for row in rows]
