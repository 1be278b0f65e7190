"""The run, seen from the driver: ETL, feed, roles, result."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import answers, end_with_this_attempt
from tfos.driver import preflight
from tfos.driver.arguments import check_is_app, parse_args
from tfos.driver.attempt import Attempt
from tfos.driver.claim import Claim, HasEnded, application, launched, run_id_of, submission
from tfos.driver.cluster import Cluster, cluster_of
from tfos.driver.display import Display
from tfos.driver.executors import Executors
from tfos.driver.feeds import Feeds
from tfos.driver.session import open_session
from tfos.driver.shipping import ship_modules, tell_of_missing
from tfos.driver.summary import Summary
from tfos.errors import LakeError, PreflightError, RegistryError, RunFailed, TFOSError
from tfos.fault.failures import Failure, describe
from tfos.fault.policy import GiveUp, NewAttempt
from tfos.lake.hdfs import is_hdfs, with_namenode
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys
from tfos.runtime.forking import ForkServer
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.probe import versions
from tfos.runtime.registry import (
    Registry,
    RegistryAddress,
    prepare,
)
from tfos.runtime.zookeeper import EmbeddedZooKeeper
from tfos.spec.job import JobSpec
from tfos.spec.result import Result, write_result_file

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tfos.app import TFOnSparkApp

# beside the file for the result the driver leaves its pid, for Ctrl-C
DRIVER_PID = "driver.pid"
# the results of the runs that have ended in this process
runs: list[Result] = []


def run_app(
    app: TFOnSparkApp,
    spark: SparkSession | None,
    args: Sequence[str] | None,
    job: Mapping[str, Any],
) -> Result:
    """The whole run; see TFOnSparkApp.run()."""
    run = _Run(app)
    error: BaseException | None = None
    try:
        with run.shutdown():
            app.args = parse_args(app, args)
            check_is_app(app)
            with open_session(app._run_name, spark, job) as (session, spec), run.shutdown():
                run.execute(session, spec)
    except BaseException as raised:
        error = raised
        run.failed(raised)
        if isinstance(raised, SystemExit) and not raised.code and not run.run_id:
            raise  # the app's --help
    result = run.finish()
    runs.append(result)
    if error is None or (isinstance(error, HasEnded) and result.error is None):
        return result
    if isinstance(error, KeyboardInterrupt):  # whatever it interrupted
        raise error.with_traceback(None) from None
    if isinstance(error, RunFailed):  # ours, which says no more than the one with the result
        raise RunFailed(_headline(result), result) from None
    if isinstance(error, (TFOSError, SystemExit)):
        raise error
    raise RunFailed(_headline(result), result) from error


def _headline(result: Result) -> str:
    return describe(Failure.from_error(result.error or {}))


class _Run:
    """One run. Its methods are called in the order in which they stand here."""

    def __init__(self, app: TFOnSparkApp) -> None:
        self._app = app
        self._display = Display()
        self._summary = Summary()
        self._claim: Claim | None = None
        self._number = 0
        self._is_shut = False
        self._ended: Result | None = None
        self._cluster: Cluster | None = None
        # of an application that YARN would start again
        self._jvm: Any = None

    @property
    def run_id(self) -> str:
        return self._summary.run_id

    def execute(self, spark: SparkSession, spec: JobSpec) -> None:
        """From the checks to the end of the roles."""
        self._cluster = cluster = cluster_of(spark)
        self._spec = spec = _with_namenode(spec, cluster)
        spec.topology.check_environment()
        if launched(spark) == {"master": "yarn", "deploy_mode": "cluster"}:
            self._jvm = cluster.jvm
        name = submission(spark)
        run_id = spec.run_id or run_id_of(name, self._app._run_name, len(runs))
        self._summary.begin(run_id, spec)
        lake = RunDirectory(spec.lake, self.run_id)
        self._claim = claim = Claim(spec, run_id, name, lake, application(spark))
        self._display.line(f"run {self.run_id} in {lake.url}")
        if spec.spare:
            self._display.line(
                "warning: --spare has no effect any more: a process that dies is replaced by a fork"
            )
        executors = Executors(spark, spec)
        for line in executors.tell():
            self._display.line(line)
        with contextlib.ExitStack() as stack:
            stack.enter_context(cluster.ending_jobs(f"tfos-{run_id}"))
            server = self._begin_zookeeper(stack, cluster)
            marker = lake.check_writable()
            stack.callback(lake.remove, marker)
            try:
                claim.open_lake({run.run_id for run in runs})
            except HasEnded as ended:
                self._ended = ended.result
                self._display.line("the run has ended in the driver before this one")
                raise
            ship_modules(spark, self._app._code_module)
            preflight.check_slots(spark, spec, tell=self._display.line)
            self._server = (
                ForkServer(spec.topology, tuple(self._app.preload)) if spec.fork == "on" else None
            )
            preflight.check_executors(spark, spec, lake, marker, self._server)
            tell_of_missing(spark, self._app._code_module, self._display.line)
            claim.take_lease(self._display.line)
            address = claim.registry_address(server)
            with claim.registry(address) as registry:
                claim.claim_lake(launched(spark))
                self._display.tell = lambda phase: self._tell(registry, phase)
                feeds = Feeds(self._app, spark, lake, address, registry, self._display)
                self._summary.manifests = feeds.manifests
                try:
                    feeds.make(lambda: preflight.may_overlap(spark, spec))
                    self._train(spark, executors, lake, claim.me, address, registry, marker, feeds)
                    feeds.wait()
                finally:
                    feeds.cancel()
                    self._summary.seconds["etl"] = feeds.secs

    def _train(
        self,
        spark: SparkSession,
        executors: Executors,
        lake: RunDirectory,
        me: Mapping[str, Any],
        address: RegistryAddress,
        registry: Registry,
        marker: str,
        feeds: Feeds,
    ) -> None:
        """Attempt after attempt, until one succeeds or it is hopeless."""
        while True:
            self._number = attempt_number(lake, self._number)
            plan = AttemptPlan(
                self._spec, self.run_id, self._number, lake, address, marker, me,
                tuple(self._app.preload), self._server, versions(),
            )  # fmt: skip
            self._summary.attempts += 1
            self._display.tell("")
            attempt = Attempt(
                spark, plan, registry, self._display, self._summary.history, feeds, executors
            )
            try:
                ended = attempt.run()
            finally:
                self._summary.note(attempt)
            if isinstance(ended, GiveUp):
                self._summary.failure = ended.cause
                raise RunFailed(describe(ended.cause), self._result())
            if not isinstance(ended, NewAttempt):
                self._summary.outcome = ended
                return
            if feeds.is_writing:
                # its tasks take the slots that are freed, and the roles would wait for the last one
                self._display.phase("a new attempt is to begin when the feed is complete")
            feeds.wait()
            self._display.phase("starting a new attempt with the executors that are left")
            try:
                preflight.check_slots(spark, self._spec, tell=self._display.line)
            except PreflightError as error:  # alone it would not say what became of the slots
                if not self._summary.history:
                    raise
                cause = self._summary.history[-1].cause
                raise PreflightError(f"{error}; this is after {describe(cause)}") from error

    def _tell(self, registry: Registry, phase: str) -> None:
        """Leaves a phase where pl_submit status finds it; a run does not wait for that."""
        if registry.connected_secs():
            with contextlib.suppress(RegistryError):
                registry.put(keys.phase(self.run_id), {"text": phase, "since": time.time()})

    def _begin_zookeeper(
        self, stack: contextlib.ExitStack, cluster: Cluster
    ) -> EmbeddedZooKeeper | None:
        """Starts a server where the user names none, to come up beside the checks that follow."""
        if self._spec.zookeeper:
            prepare(self._spec.zookeeper)
            return None
        if cluster.jvm is None:
            raise PreflightError(
                "under Spark Connect the driver, whose machine the executors can reach, is not this"
                ' process, so no ZooKeeper is started here: name one, zookeeper="HOST:PORT", which'
                " this process and the executors reach"
            )
        local = cluster.master.startswith("local")
        host = cluster.conf.get("spark.driver.host", "")
        # in containers pyspark is an archive without jars; the driver's JVM has them everywhere
        class_path = str(cluster.jvm.java.lang.System.getProperty("java.class.path"))
        server = EmbeddedZooKeeper("127.0.0.1" if local else host, class_path)
        stack.callback(server.stop)
        return server

    @contextlib.contextmanager
    def shutdown(self) -> Iterator[None]:
        """Calls the user's shutdown() once, at the end of the block, with self.result there."""
        try:
            yield
        except BaseException as error:
            self.failed(error)
            try:
                self._shut()
            except Exception as consequence:  # what came first is the root cause
                self._display.line(f"shutdown() failed as well: {consequence!r}")
            raise
        self._shut()

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self._display.close()
            self._app.result = self._result()
            self._app.shutdown()

    def failed(self, error: BaseException) -> None:
        """Records an error of the driver, unless a role's failure or an earlier one is known."""
        if isinstance(error, Exception) and self._cluster and not answers(self._cluster.jvm):
            self._summary.lost_jvm()
        self._summary.failed(error, self._claim.killed_by if self._claim else "")

    @property
    def _lake(self) -> RunDirectory | None:
        return self._claim.lake if self._claim else None

    def _result(self) -> Result:
        return self._ended or self._summary.result(self._lake)

    def finish(self) -> Result:
        """Writes result.json, where there is a lake; returns its content."""
        self._display.close()
        if self._claim is not None:
            self._claim.heed_takeover()
        result = self._result()
        try:
            if self._lake is not None:
                self._lake.write_result(result.as_json())
            # also of one that was refused: the next one would be, too
            if result.error and result.is_definite and self._jvm is not None:
                end_with_this_attempt(self._jvm)
        except LakeError as error:
            if self._summary.failure is None:
                self.failed(error)
                result = self._result()
            self._display.line(f"no result.json: {error}")
        if self._claim is not None:  # last: whoever comes after it finds the result
            self._claim.release()
        write_result_file(result)
        if result.status == "succeeded":
            self._display.line(f"succeeded: {self._lake and self._lake.result_uri}")
        return result


def _with_namenode(spec: JobSpec, cluster: Cluster) -> JobSpec:
    """The lake as every process of the run can find it: few have Hadoop's configuration."""
    if not is_hdfs(spec.lake):
        return spec
    try:
        lake = with_namenode(spec.lake, cluster.default_fs)
    except ValueError as error:
        raise LakeError(f"--lake {error}") from error
    return dataclasses.replace(spec, lake=lake)


def attempt_number(lake: RunDirectory, last: int) -> int:
    """The number of a new attempt, which no attempt of the run has had.

    last: that of this driver's attempt before, 0 for none. Logs come late to a remote lake.
    """
    generation = lake.generation() or {"attempt": 0}
    return 1 + max(last, generation["attempt"], *lake.logged_attempts())
