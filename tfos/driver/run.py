"""The run, seen from the driver: ETL, feed, roles, result."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfos.driver import preflight
from tfos.driver.arguments import check_is_app, parse_args
from tfos.driver.attempt import Attempt
from tfos.driver.display import Display
from tfos.driver.feeds import Feeds
from tfos.driver.lease import Lease
from tfos.driver.session import open_session
from tfos.driver.shipping import ship_modules, tell_of_missing
from tfos.errors import LakeError, PreflightError, RegistryError, RunFailed, TFOSError
from tfos.fault.failures import Failure, describe, error_message
from tfos.fault.policy import GiveUp, Incident, NewAttempt
from tfos.feeding.ledger import accounting
from tfos.feeding.schema import Manifest
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys
from tfos.runtime.java import find_java
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import (
    EMBEDDED_TIMEOUT_SECS,
    Registry,
    RegistryAddress,
    prepare,
)
from tfos.runtime.roles import all_tasks
from tfos.runtime.zookeeper import EmbeddedZooKeeper
from tfos.spec.job import SUBMISSION_CONF, JobSpec, app_stem, new_run_id
from tfos.spec.result import Result, finite, sum_stats, tell_run, write_result_file
from tfos.spec.times import TIMES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tfos.app import TFOnSparkApp

# beside the file for the result the driver leaves its pid, for Ctrl-C
DRIVER_PID = "driver.pid"
# the results of the runs that have ended in this process
runs: list[Result] = []
# pl_submit's own start, seconds since the epoch: total counts from the command
STARTED_ENV = "TFOS_STARTED"


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
            find_java()
            with open_session(app._run_name, spark, job) as (session, spec), run.shutdown():
                run.execute(session, spec)
    except BaseException as raised:
        error = raised
        run.failed(raised)
        if isinstance(raised, SystemExit) and not raised.code and not run.run_id:
            raise  # the app's --help
    result = run.finish()
    runs.append(result)
    if error is None:
        return result
    if isinstance(error, (TFOSError, KeyboardInterrupt, SystemExit)) and not isinstance(
        error, RunFailed
    ):
        raise error
    raise RunFailed(_headline(result), result) from error


def _headline(result: Result) -> str:
    return describe(Failure.from_error(result.error or {}))


class _Run:
    """One run. Its methods are called in the order in which they stand here."""

    def __init__(self, app: TFOnSparkApp) -> None:
        self._app = app
        self._display = Display()
        self._begun = float(os.environ.get(STARTED_ENV, time.time()))
        self._seconds = {"etl": 0.0, "start": 0.0, "train": 0.0, "total": 0.0}
        self._lake: RunDirectory | None = None
        self._lease: Lease | None = None
        self._failure: Failure | None = None
        self._outcome: Mapping[str, Any] = {}
        self._manifests: dict[str, Manifest] = {}
        self._attempts = 0
        self._history: list[Incident] = []
        self._restarts: dict[str, int] = {}
        self._roles: dict[str, dict[str, Any]] = {}
        self._checkpoints: list[Mapping[str, Any]] = []
        self._ledger: Mapping[str, Any] | None = None
        self._number = 0
        self._is_shut = False
        self._killed_by = ""
        self.run_id = ""

    def execute(self, spark: SparkSession, spec: JobSpec) -> None:
        """From the checks to the end of the roles."""
        self._spec = spec
        self._restarts = {task.role: 0 for task in all_tasks(spec)}
        self._submission = submission(spark)
        self.run_id = spec.run_id or run_id_of(self._submission, self._app._run_name, len(runs))
        lake = RunDirectory(spec.lake, self.run_id)
        self._display.line(f"run {self.run_id} in {lake.url}")
        preflight.check_conf(dict(spark.sparkContext.getConf().getAll()))
        with contextlib.ExitStack() as stack:
            server = self._begin_zookeeper(stack, spark)
            marker = lake.check_writable()
            stack.callback(lake.remove, marker)
            self._open_lake(lake)
            ship_modules(spark, self._app._code_module)
            preflight.check_slots(spark, spec)
            preflight.check_executors(spark, spec, lake, marker)
            tell_of_missing(spark, self._app._code_module, self._display.line)
            self._take_lease(lake)
            address = self._registry_address(server, lake)
            with self._claim(address, lake) as registry:
                self._claim_lake(lake)
                self._display.tell = lambda phase: self._tell(registry, phase)
                feeds = Feeds(self._app, spark, lake, address, registry, self._display)
                self._manifests = feeds.manifests
                try:
                    feeds.make(lambda: preflight.may_overlap(spark, spec))
                    self._train(spark, lake, address, registry, marker, feeds)
                    feeds.wait()
                finally:
                    feeds.cancel()
                    self._seconds["etl"] = feeds.secs

    def _train(
        self,
        spark: SparkSession,
        lake: RunDirectory,
        address: RegistryAddress,
        registry: Registry,
        marker: str,
        feeds: Feeds,
    ) -> None:
        """Attempt after attempt, until one succeeds or it is hopeless."""
        while True:
            self._number = attempt_number(lake, self._number)
            plan = AttemptPlan(
                self._spec, self.run_id, self._number, lake, address, marker, self._me
            )
            self._attempts += 1
            self._display.tell("")
            attempt = Attempt(spark, plan, registry, self._display, self._history, feeds)
            try:
                ended = attempt.run()
            finally:
                self._note(attempt)
            if isinstance(ended, GiveUp):
                self._failure = ended.cause
                raise RunFailed(describe(ended.cause), self._result())
            if not isinstance(ended, NewAttempt):
                self._outcome = ended
                return
            if feeds.is_writing:
                # its tasks take the slots that are freed, and the roles would wait for the last one
                self._display.phase("a new attempt is to begin when the feed is complete")
            feeds.wait()
            self._display.phase("starting a new attempt with the executors that are left")
            try:
                preflight.check_slots(spark, self._spec)
            except PreflightError as error:  # alone it would not say what became of the slots
                if not self._history:
                    raise
                cause = self._history[-1].cause
                raise PreflightError(f"{error}; this is after {describe(cause)}") from error

    def _tell(self, registry: Registry, phase: str) -> None:
        """Leaves a phase where pl_submit status finds it; a run does not wait for that."""
        if registry.connected_secs():
            with contextlib.suppress(RegistryError):
                registry.put(keys.phase(self.run_id), {"text": phase, "since": time.time()})

    def _note(self, attempt: Attempt) -> None:
        """Takes over what an attempt that has ended leaves to tell."""
        self._seconds["start"] += attempt.start_secs
        self._seconds["train"] += attempt.train_secs
        self._checkpoints += attempt.checkpoints.values()
        for task, life in attempt.lives.items():
            self._restarts[task.role] += life - 1
            role = self._roles.setdefault(str(task), {"restarts": 0})
            role["restarts"] += life - 1
            role.update({k: attempt.roles.get(str(task), {}).get(k) for k in ("host", "pid")})

    def _begin_zookeeper(
        self, stack: contextlib.ExitStack, spark: SparkSession
    ) -> EmbeddedZooKeeper | None:
        """Starts a server where the user names none, to come up beside the checks that follow."""
        if self._spec.zookeeper:
            prepare(self._spec.zookeeper)
            return None
        local = spark.sparkContext.master.startswith("local")
        host = spark.sparkContext.getConf().get("spark.driver.host", "")
        server = EmbeddedZooKeeper("127.0.0.1" if local else host)
        stack.callback(server.stop)
        return server

    def _registry_address(
        self, server: EmbeddedZooKeeper | None, lake: RunDirectory
    ) -> RegistryAddress:
        hosts = self._spec.zookeeper
        if server is not None:
            server.wait()
            hosts = server.hosts
            prepare(hosts, EMBEDDED_TIMEOUT_SECS)
        # a run that is resumed must be able to clear what its first driver left in the ensemble
        address = RegistryAddress.new(hosts, self.run_id)
        known = lake.registry() if self._continues else None
        if known is not None:
            address = RegistryAddress(**{**known, "hosts": hosts})
        lake.write_registry(vars(address))
        return address

    def _take_lease(self, lake: RunDirectory) -> None:
        """Sees to it that no other driver of the run lives, whatever registry it has."""
        assert self._lease is not None
        ours, self._lake = self._lake, None  # a result is not ours to write beside one that lives
        self._lease.take()
        self._lake = ours

    @contextlib.contextmanager
    def _claim(self, address: RegistryAddress, lake: RunDirectory) -> Iterator[Registry]:
        """The registry with this process as the run's one driver; its nodes go at the end."""
        with Registry(address) as registry:
            # the node of a driver that was just killed stays for the length of its session
            deadline = time.monotonic() + TIMES.session_secs + 5
            # in containers a driver that is started again may have the host and pid of the last one
            self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            while not registry.claim(keys.driver(self.run_id), self._me):
                if not self._continues or time.monotonic() > deadline:
                    raise RegistryError(
                        f"run {self.run_id} has a driver already (its node in ZooKeeper is alive):"
                        " wait for it to end, or use another --run-id"
                    )
                time.sleep(0.2)
            if self._lease is not None:
                self._lease.when_taken(registry.lose)
            try:
                registry.remove(f"{keys.run(self.run_id)}/attempts")
                registry.remove(keys.kill(self.run_id))
                registry.remove(keys.phase(self.run_id))
                registry.publish(keys.lake(self.run_id), lake.url)
                registry.watch(keys.kill(self.run_id), self._asked_to_end)
                yield registry
            finally:
                if registry.taken:
                    self._lake = None  # nodes and result are the other driver's
                # what cannot be removed now would be waited for; the embedded server goes with us
                elif registry.connected_secs():
                    with contextlib.suppress(RegistryError):
                        registry.remove(keys.run(self.run_id))

    def _asked_to_end(self, value: Mapping[str, Any] | None) -> None:
        if value is not None:
            self._killed_by = str(value.get("by"))
            os.kill(os.getpid(), signal.SIGINT)  # what Ctrl-C does, wherever the driver is

    def _open_lake(self, lake: RunDirectory) -> None:
        """Checks that the run directory is new, or that of the run to continue."""
        spec = lake.spec()
        exists = spec is not None
        is_retry = bool(self._submission) and self.run_id not in {run.run_id for run in runs}
        self._continues = spec is not None and (
            self._spec.resume or (is_retry and spec.get("submission") == self._submission)
        )
        if exists and not self._continues:
            raise LakeError(
                f"run {self.run_id} exists already in {lake.url}: continue it with --resume, or use"
                " another --run-id"
            )
        if self._spec.resume and not exists:
            raise LakeError(
                f"there is no run {self.run_id} in {lake.url} to resume: check --run-id and --lake,"
                " or leave --resume out"
            )
        self._lease = Lease(lake, self._submission)
        if not exists:  # the result of a run that another driver may hold is not ours to write
            self._own(lake)

    def _claim_lake(self, lake: RunDirectory) -> None:
        """Makes the run directory ours: from here on the run id is taken."""
        self._own(lake)
        lake.remove_result()
        lake.write_spec(
            {**self._spec.as_json(), "run_id": self.run_id, "submission": self._submission}
        )

    def _own(self, lake: RunDirectory) -> None:
        self._lake = lake
        tell_run(self._spec.lake, self.run_id)

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
        if self._failure is not None:
            return
        if isinstance(error, KeyboardInterrupt):
            message, trace = "interrupted", ""
            if self._killed_by:
                message = f"cancelled by {self._killed_by}"
        elif isinstance(error, TFOSError):
            message, trace = str(error), ""
        else:
            message = error_message(error)
            trace = "".join(traceback.format_exception(error))
        self._failure = Failure.of_driver(message, trace)

    def _result(self) -> Result:
        failure = self._failure
        ledger = self._trained()
        self._seconds["total"] = time.time() - self._begun
        return Result(
            run_id=self.run_id or None,
            status="succeeded" if failure is None else "failed",
            error=None if failure is None else failure.as_error(),
            attempts=self._attempts,
            restarts=self._restarts,
            feeds={
                name: {
                    "rows": manifest.rows,
                    "shards": len(manifest.shards),
                    **accounting(ledger.get(name, {}), manifest.rows),
                }
                for name, manifest in self._manifests.items()
            },
            failures=[f.as_json() for i in self._history for f in i.failures],
            roles=self._roles,
            checkpoints=sum_stats(self._checkpoints),
            metrics=finite(self._outcome.get("metrics", {})),
            evaluations=finite(self._evaluations()),
            model=self._outcome.get("model"),
            seconds={name: round(value, 3) for name, value in self._seconds.items()},
        )

    def _evaluations(self) -> Any:
        if self._lake is None or not self._spec.evaluator:
            return []
        with contextlib.suppress(LakeError):  # a lake that fails is told of elsewhere
            return self._lake.evaluations()["evaluations"]
        return []

    def _trained(self) -> Mapping[str, Any]:
        """The ledger: of the outcome; of a run that failed, what its newest checkpoint holds."""
        if self._ledger is None:
            self._ledger = self._outcome.get("feeds", {})
            if not self._outcome and self._attempts and self._lake is not None:
                with contextlib.suppress(LakeError):  # it may be what the run failed for
                    newest = self._lake.newest_checkpoint()
                    if newest:
                        self._ledger = self._lake.checkpoint_state(newest)["shared"] or {}
        return self._ledger

    def finish(self) -> Result:
        """Writes result.json, where there is a lake; returns its content."""
        self._display.close()
        result = self._result()
        if self._lake is not None:
            try:
                self._lake.write_result(result.as_json())
            except LakeError as error:
                if self._failure is None:
                    self.failed(error)
                    result = self._result()
                self._display.line(f"no result.json: {error}")
        if self._lease is not None:  # last: whoever comes after it finds the result
            self._lease.release()
        write_result_file(result)
        if result.status == "succeeded":
            self._display.line(f"succeeded: {self._lake and self._lake.result_uri}")
        return result


def submission(spark: SparkSession) -> str:
    """What all drivers of one submission have in common and no other has; "" where nothing is.

    A driver that Spark starts again (YARN's application attempts, --supervise) continues the run
    of the one before, without --resume. pl_submit names its submission; on YARN in cluster mode
    the application is one. Elsewhere, as in a notebook, no driver is started again.
    """
    conf = spark.sparkContext.getConf()
    yarn = (conf.get("spark.master"), conf.get("spark.submit.deployMode")) == ("yarn", "cluster")
    return conf.get(SUBMISSION_CONF) or (spark.sparkContext.applicationId if yarn else "") or ""


def run_id_of(submission: str, app_name: str, number: int) -> str:
    """The run id where the user names none.

    number: of the run in its process, from 0. On YARN each driver of an application has the same.
    """
    if submission.startswith("application_"):
        return f"{app_stem(app_name)}-{submission}" + (f"-{number + 1}" if number else "")
    return new_run_id(app_name)


def attempt_number(lake: RunDirectory, last: int) -> int:
    """The number of a new attempt, which no attempt of the run has had.

    last: that of this driver's attempt before, 0 for none. Logs come late to a remote lake.
    """
    generation = lake.generation() or {"attempt": 0}
    return 1 + max(last, generation["attempt"], *lake.logged_attempts())
