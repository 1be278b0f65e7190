"""pl_submit in cluster mode: the driver is on the cluster, and is followed through the lake.

What spark-submit says is searched for the application's name and address; what the driver and the
app write comes out of the driver's log in the lake. Ctrl-C leaves the application running.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from types import FrameType
from typing import Any

from tfos.cli.application import Application
from tfos.cli.followed import DriverOutput, Submitted, show
from tfos.cli.submission import Submission
from tfos.client.beats import living
from tfos.client.control import cancel, has_driver
from tfos.driver.lease import refusal
from tfos.errors import LakeError, TFOSError
from tfos.fault.failures import Failure
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import Storage
from tfos.runtime.process import ChildProcess, describe_status
from tfos.spec.result import Result

_POLL_SECS = 0.1
# how long after the first one a second Ctrl-C ends the run
_TWICE_SECS = 3.0


def run(submission: Submission, env: dict[str, str], scratch: str) -> Result | str:
    """Runs spark-submit to the application's end; returns its result, or why there is none.

    On Kubernetes, which starts no driver again, another one is submitted where a driver died.
    Raises Interrupted after Ctrl-C, which leaves the application running; a second one, after that
    has been said, ends it. Raises LakeError where the run has a driver already.
    """
    lake = RunDirectory(submission.lake, submission.run_id)
    output = DriverOutput(lake, submission.options.verbose)
    deaths = Deaths(submission.max_restarts)
    with _Interrupts() as interrupts:
        output.skip()
        before = _result(lake)  # of an earlier submission
        if before is not None and _has_ended(lake, submission.name, before):
            _tell("run", f"{submission.run_id} in {submission.lake} has ended already")
            return Result.from_json(before)
        _check_free(lake, submission.name)
        while True:
            submitted, status, said = _follow(submission, env, scratch, output, interrupts)
            if interrupts.count:
                _leave(submission, lake, submitted.application, interrupts)
                raise Interrupted
            output.look(is_last=True)
            record = _result(lake)
            if not (submission.is_on_kubernetes and submitted.application):
                break
            if not _has_died(lake, submission.name, record) or interrupts.count:
                break
            if not deaths.another(_newest_checkpoint(lake)):
                break
            _tell("driver", f"its pod ended before the run did; {deaths.words}")
            # of one that was evicted, or killed for its memory, the pod is left
            _application(submission, submitted.application).kill()
    if not submitted.application:
        show(said)
        _forget(submission)
    if record is not None and record != before:
        _forget(submission, submitted.application)
        result = Result.from_json(record)
        if result.status == "succeeded" and status != 0:
            message = "app.py failed after its run had succeeded; see above"
            return result.failed(Failure.of_driver(message).as_error())
        return result
    if submitted.application:
        show(said)
    if submitted.application and not submitted.pod_has_ended and has_driver(lake):
        return (
            f"spark-submit {describe_status(status)}, but the run goes on; look at it with:"
            f" pl_submit status {_named(submission)}"
        )
    if submitted.application:
        _clear(submission, submitted, status, output.has_come)
    if submitted.diagnostics:
        return f"the run left no result; YARN says: {submitted.diagnostics}"
    return f"spark-submit {describe_status(status)} and the run left no result; see above"


def _follow(
    submission: Submission,
    env: dict[str, str],
    scratch: str,
    output: DriverOutput,
    interrupts: _Interrupts,
) -> tuple[Submitted, int, bytes]:
    """One spark-submit, to its end or to Ctrl-C; its exit status, and what it said."""
    submitted = Submitted(submission.options.verbose, _tell)
    process = ChildProcess(
        submission.command(), env=env, scratch=scratch,
        log=submitted.stream, errors=submitted.stream,
    )  # fmt: skip
    submitted.begin()
    _tell("run", f"{submission.run_id} in {submission.lake}")
    _tell("look at it, end it", f"pl_submit status|logs|kill {_named(submission)}")
    try:
        while process.poll() is None and not interrupts.count:
            output.look()
            time.sleep(_POLL_SECS)
    finally:
        status = process.end(keep_scratch=True)
        said = submitted.close()
    return submitted, status, said


class Deaths:
    """Of drivers: as many as failures may there be with no checkpoint between. Pure."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._newest: str | None = None

    def another(self, newest: str | None) -> bool:
        """Whether the run is to be continued after one more; newest: its newest checkpoint."""
        self._count = self._count + 1 if newest == self._newest else 1
        self._newest = newest
        return self._count <= self._most

    @property
    def words(self) -> str:
        return (
            f"another one continues it, {self._count} of {self._most} without a new checkpoint"
            " (--max-restarts)"
        )


def _is_of(lake: RunDirectory, name: str) -> bool:
    """Whether the run that is there was begun by the submission of this name."""
    try:
        return (lake.spec() or {}).get("submission") == name
    except LakeError:
        return False


def _has_ended(lake: RunDirectory, name: str, record: dict[str, Any]) -> bool:
    """Whether this submission's run has a result, and a driver of it could only say so again."""
    return Result.from_json(record).is_definite and _is_of(lake, name)


def _has_died(lake: RunDirectory, name: str, record: dict[str, Any] | None) -> bool:
    """Whether a run that had begun was left by its driver, and not brought to an end.

    name: of this submission. record: the run's result.
    """
    if not _is_of(lake, name):
        return False
    if record is not None and Result.from_json(record).is_definite:
        return False
    return record is not None or not has_driver(lake)


def _newest_checkpoint(lake: RunDirectory) -> str | None:
    with contextlib.suppress(LakeError):
        return lake.newest_checkpoint()
    return None


def _result(lake: RunDirectory) -> dict[str, Any] | None:
    try:
        return lake.result()
    except LakeError as error:
        _tell("the run's result cannot be read", str(error))
        return None


class Interrupted(Exception):
    """Ctrl-C; all that is to be said of it has been."""


def _leave(submission: Submission, lake: RunDirectory, name: str, interrupts: _Interrupts) -> None:
    """Says that the application goes on; ends it when Ctrl-C comes again."""
    print(file=sys.stderr)
    if not name:
        _tell("interrupted", "no application had been submitted")
        _forget(submission)
        return
    _tell("look at it", f"pl_submit status {_named(submission)}")
    _tell("end it", f"pl_submit kill {_named(submission)}")
    application = _application(submission, name)
    _tell("or, without tfos", application.kill_command)
    _tell(name, f"goes on; a second Ctrl-C within {_TWICE_SECS:g} s ends it")
    said = interrupts.count
    deadline = time.monotonic() + _TWICE_SECS
    while interrupts.count == said and time.monotonic() < deadline:
        time.sleep(_POLL_SECS)
    if interrupts.count > said:
        _tell(name, "is being ended")
        _tell(name, _end(lake, application))
        _forget(submission, name)


def _application(submission: Submission, name: str) -> Application:
    return Application(name, submission.master, submission.kubernetes)


def _check_free(lake: RunDirectory, name: str) -> None:
    """Raises LakeError where a driver has the run, whose log the next one's would be mixed with.

    name: of this submission.
    """
    lease = None
    with contextlib.suppress(LakeError):  # the driver will tell of it
        lease = living(lake)
    if lease is not None:
        raise refusal(lake, lease, name)


def _clear(submission: Submission, submitted: Submitted, status: int, has_told: bool) -> None:
    """After an application without a result or a driver. has_told: whether the lake has its words.

    status: of spark-submit.
    """
    if not submission.is_on_kubernetes:
        return
    is_over = submitted.pod_has_ended or status == 0  # else it may be about to start
    if is_over:
        _forget(submission, submitted.application if has_told else "")
    if not (is_over and has_told):
        namespace, _, pod = submitted.application.partition(":")
        _tell("its pod is left, which may tell more", f"kubectl logs {pod} -n {namespace}")
        _tell("remove it", _application(submission, submitted.application).kill_command)


def _forget(submission: Submission, name: str = "") -> None:
    """Removes what no driver needs any more. name: of the application, where there was one."""
    if submission.uploaded:
        with contextlib.suppress(LakeError):
            Storage(submission.lake).remove(submission.uploaded)
    if name and submission.is_on_kubernetes:
        # the driver's pod, and its ConfigMaps with it; what it wrote is in the lake
        _application(submission, name).kill()


def _end(lake: RunDirectory, application: Application) -> str:
    """Ends the run, in order where its driver can be reached; says how that went."""
    try:
        result = cancel(lake)
        return f"run {lake.run_id} {result.status if result else 'ended without a result'}"
    except TFOSError:  # it is being checked, or its driver cannot be reached from here
        return application.kill()


class _Interrupts:
    """Counts Ctrl-C, and SIGTERM, in its block."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _Interrupts:
        self._before = {
            signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1


def _named(submission: Submission) -> str:
    return shlex.join([submission.run_id, "--lake", submission.lake])


def _tell(what: str, value: str) -> None:
    show(f"tfos: {what}: {value}\n".encode())  # whole: two threads tell
