"""This process as the one driver of its run: in the lake, and in ZooKeeper."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfos.driver.cluster import cluster_of
from tfos.driver.lease import Lease
from tfos.errors import LakeError, RegistryError
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys
from tfos.runtime.registry import (
    EMBEDDED_TIMEOUT_SECS,
    Registry,
    RegistryAddress,
    prepare,
)
from tfos.runtime.zookeeper import EmbeddedZooKeeper
from tfos.spec.job import SUBMISSION_CONF, JobSpec, app_stem, new_run_id
from tfos.spec.result import Result, tell_run
from tfos.spec.times import TIMES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class HasEnded(Exception):
    """A driver of this submission has brought the run to its end; Spark has started another one.

    What ended for good stays ended: an exception in train(), a kill, a success. Only a driver that
    died is continued: it left no result, or one that says that it got a signal.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(f"the run has ended: {result.status}")
        self.result = result


class Claim:
    """Its methods are called in the order in which they stand here.

    lake: the run directory, once what is in it is ours to write; else None.
    me: what the driver's node holds. killed_by: who has asked for the run's end, if anybody has.
    """

    def __init__(
        self,
        spec: JobSpec,
        run_id: str,
        submission: str,
        directory: RunDirectory,
        application: str = "",
    ) -> None:
        """application: see application()."""
        self._spec = spec
        self._run_id = run_id
        self._submission = submission
        self._application = application
        self._directory = directory
        self._lease: Lease | None = None
        self._continues = False
        self.lake: RunDirectory | None = None
        self.me: Mapping[str, Any] = {}
        self.killed_by = ""

    def open_lake(self, runs_before: Collection[str | None]) -> None:
        """Checks that the run directory is new, or that of the run to continue.

        runs_before: the ids of the runs that have ended in this process.
        Raises HasEnded, and LakeError for a directory that is not ours to use.
        """
        spec = self._directory.spec()
        exists = spec is not None
        is_retry = bool(self._submission) and self._run_id not in runs_before
        is_ours = spec is not None and is_retry and spec.get("submission") == self._submission
        record = self._directory.result() if is_ours else None
        result = None if record is None else Result.from_json(record)
        if result is not None and result.is_definite:
            raise HasEnded(result)
        self._continues = exists and (self._spec.resume or is_ours)
        url = self._directory.url
        if exists and not self._continues:
            raise LakeError(
                f"run {self._run_id} exists already in {url}: continue it with --resume, or use"
                " another --run-id"
            )
        if self._spec.resume and not exists:
            raise LakeError(
                f"there is no run {self._run_id} in {url} to resume: check --run-id and --lake,"
                " or leave --resume out"
            )
        self._lease = Lease(self._directory, self._submission, self._application)
        if not exists:  # the result of a run that another driver may hold is not ours to write
            self._own()

    def take_lease(self, tell: Callable[[str], None] = lambda line: None) -> None:
        """Sees to it that no other driver of the run lives, whatever registry it has."""
        assert self._lease is not None
        ours, self.lake = self.lake, None  # a result is not ours to write beside one that lives
        self._lease.take(tell)
        self.lake = ours

    def registry_address(self, server: EmbeddedZooKeeper | None) -> RegistryAddress:
        """server: ours, where the user names none."""
        hosts = self._spec.zookeeper
        if server is not None:
            server.wait()
            hosts = server.hosts
            prepare(hosts, EMBEDDED_TIMEOUT_SECS)
        # a run that is resumed must be able to clear what its first driver left in the ensemble
        address = RegistryAddress.new(hosts, self._run_id)
        known = self._directory.registry() if self._continues else None
        if known is not None:
            address = RegistryAddress(**{**known, "hosts": hosts})
        self._directory.write_registry(vars(address))
        return address

    @contextlib.contextmanager
    def registry(self, address: RegistryAddress) -> Iterator[Registry]:
        """The registry with this process as the run's one driver; its nodes go at the end."""
        with Registry(address) as registry:
            # the node of a driver that was just killed stays for the length of its session
            deadline = time.monotonic() + TIMES.session_secs + 5
            # in containers a driver that is started again may have the host and pid of the last one
            self.me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            while not registry.claim(keys.driver(self._run_id), self.me):
                if not self._continues or time.monotonic() > deadline:
                    raise RegistryError(
                        f"run {self._run_id} has a driver already (its node in ZooKeeper is alive):"
                        " wait for it to end, or use another --run-id"
                    )
                time.sleep(0.2)
            if self._lease is not None:
                self._lease.when_taken(registry.lose)
                self._lease.when_cancelled(self._asked_to_end)
            try:
                registry.remove(f"{keys.run(self._run_id)}/attempts")
                registry.remove(keys.kill(self._run_id))
                registry.remove(keys.phase(self._run_id))
                registry.publish(keys.lake(self._run_id), self._directory.url)
                registry.watch(keys.kill(self._run_id), self._asked_to_end)
                yield registry
            finally:
                if self._lease is not None:  # it ends by itself from here on
                    self._lease.when_cancelled(None)
                if registry.taken:
                    self.lake = None  # nodes and result are the other driver's
                # what cannot be removed now would be waited for; the embedded server goes with us
                elif registry.connected_secs():
                    with contextlib.suppress(RegistryError):
                        registry.remove(keys.run(self._run_id))

    def _asked_to_end(self, value: Mapping[str, Any] | None) -> None:
        if value is not None and not self.killed_by:  # a second one would hit what the first ends
            self.killed_by = str(value.get("by"))
            os.kill(os.getpid(), signal.SIGINT)  # what Ctrl-C does, wherever the driver is

    def claim_lake(self, launch: Mapping[str, str]) -> None:
        """Makes the run directory ours: from here on the run id is taken.

        launch: where the run is, for who continues it, or asks its driver; see launched().
        """
        self._own()
        self._directory.remove_result()
        self._directory.write_spec(
            {
                **self._spec.as_json(),
                "run_id": self._run_id,
                "submission": self._submission,
                **launch,
            }
        )

    def _own(self) -> None:
        self.lake = self._directory
        tell_run(self._spec.lake, self._run_id)

    def heed_takeover(self) -> None:
        """To be called before the result is written: another driver's run is not ours to end."""
        if self._lease is not None and self._lease.is_lost():
            self.lake = None

    def release(self) -> None:
        """Another driver may have the run from here on."""
        if self._lease is not None:
            self._lease.release()


def submission(spark: SparkSession) -> str:
    """What all drivers of one submission have in common and no other has; "" where nothing is.

    A driver that Spark starts again (YARN's application attempts, --supervise) continues the run
    of the one before, without --resume. pl_submit names its submission; on YARN in cluster mode
    the application is one. Elsewhere, as in a notebook, no driver is started again.
    """
    return cluster_of(spark).conf.get(SUBMISSION_CONF) or application(spark)


def application(spark: SparkSession) -> str:
    """The application of YARN that starts this driver, and the next one if it is lost; else ""."""
    cluster = cluster_of(spark)
    conf = cluster.conf
    yarn = (conf.get("spark.master"), conf.get("spark.submit.deployMode")) == ("yarn", "cluster")
    return (cluster.application_id if yarn else "") or ""


def launched(spark: SparkSession) -> Mapping[str, str]:
    """The master and deploy mode of this application, and the pod of its driver, NAMESPACE/NAME.

    Nothing where it is this machine alone.
    """
    cluster = cluster_of(spark)
    conf = cluster.conf
    if cluster.master.startswith("local"):
        return {}
    mode = conf.get("spark.submit.deployMode", "client")
    if conf.get("spark.kubernetes.submitInDriver") == "true":
        mode = "cluster"  # its pod runs a spark-submit in client mode
    where = {"master": cluster.master, "deploy_mode": mode}
    pod = conf.get("spark.kubernetes.driver.pod.name")
    if cluster.master.startswith("k8s") and pod:
        where["pod"] = f"{conf.get('spark.kubernetes.namespace', 'default')}/{pod}"
    return where


def run_id_of(submission: str, app_name: str, number: int) -> str:
    """The run id where the user names none.

    number: of the run in its process, from 0. On YARN each driver of an application has the same.
    """
    if submission.startswith("application_"):
        return f"{app_stem(app_name)}-{submission}" + (f"-{number + 1}" if number else "")
    return new_run_id(app_name)
