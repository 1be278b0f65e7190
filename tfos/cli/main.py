"""pl_submit: runs spark-submit for an app, and reports how it ended."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tfos.cli import cluster_mode
from tfos.cli.class_data import COMPILE_LITTLE, ClassArchive, launch_environment
from tfos.cli.commands import COMMANDS
from tfos.cli.commands import main as operate
from tfos.cli.driver_log import DriverLog
from tfos.cli.parser import before_app, parser
from tfos.cli.relay import Relay
from tfos.cli.submission import Submission
from tfos.driver.display import TERMINAL_ENV
from tfos.driver.run import DRIVER_PID
from tfos.driver.summary import STARTED_ENV
from tfos.errors import TFOSError, UsageError
from tfos.fault.failures import Failure, describe
from tfos.packing.pack import pack
from tfos.runtime.java import find_java, spark_home
from tfos.runtime.process import ChildProcess, describe_status
from tfos.spec.result import (
    DRIVER_KILLED,
    INTERRUPTED,
    JVM_GONE,
    RESULT_FILE_ENV,
    RUN_FILE,
    Result,
)

# at a SIGTERM the driver has a checkpoint saved first; Kubernetes gives us 30 s
_INTERRUPT_SECS = 25.0
# of runs that another driver may continue, as a shell says of such processes; of all others 1
_KILLED = 128 + signal.SIGKILL
_STATUS = {INTERRUPTED: 128 + signal.SIGINT, JVM_GONE: _KILLED, DRIVER_KILLED: _KILLED}


def submit(submission: Submission) -> Result:
    """Runs spark-submit to its end; returns the run's result.

    Ctrl-C ends the run; in cluster mode it raises cluster_mode.Interrupted.
    """
    submission.check_environment()
    if submission.options.pack:
        pack(Path(submission.options.pack).absolute(), _tell, submission.options.conda)
    scratch = tempfile.mkdtemp(prefix="tfos-submit-")
    archive = submission.write_archive()
    try:
        if submission.is_cluster_mode:
            return _submit_to_cluster(submission, scratch)
        return _submit_client(submission, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if archive is not None:
            archive.unlink()


def _submit_to_cluster(submission: Submission, scratch: str) -> Result:
    # the driver's JVM is another one, and lives longer
    env = launch_environment(os.environ, [COMPILE_LITTLE], submission.java_options)
    ended = cluster_mode.run(submission, env, scratch)
    return _failed(ended) if isinstance(ended, str) else ended


def _submit_client(submission: Submission, scratch: str) -> Result:
    result_file = Path(scratch, "result.json")
    classes = ClassArchive(find_java(), spark_home(), submission.class_path)
    env = {
        **launch_environment(os.environ, classes.options(), submission.java_options),
        RESULT_FILE_ENV: str(result_file),
        STARTED_ENV: os.environ.get(STARTED_ENV, str(time.time())),
        "PYTHONUNBUFFERED": "1",
    }
    if sys.stderr.isatty():
        size = shutil.get_terminal_size()
        env.update({TERMINAL_ENV: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)})
    log = DriverLog(result_file.with_name(RUN_FILE), scratch)
    relay = Relay(sys.stderr.fileno(), log, shows_all=submission.options.verbose)
    # spark-submit merges the driver's stdout and stderr; ours stays free for the result. In a
    # group of its own Ctrl-C reaches the driver from us, once, and not Spark's JVM first
    process = ChildProcess(
        submission.command(), env=env, scratch=scratch, log=relay.driver, errors=relay.jvm
    )
    try:
        relay.begin()
        ended = _wait(process, result_file.with_name(DRIVER_PID))
        if result_file.exists():
            result = Result.from_json(json.loads(result_file.read_text()))
            if result.status == "succeeded" and process.poll() != 0:
                message = "app.py failed after its run had succeeded; see above"
                return result.failed(Failure.of_driver(message).as_error())
            return result
        if process.poll() == 0:
            return Result(None, "succeeded")  # app.py --help
    finally:
        status = process.end(keep_scratch=True)
        classes.close(status)
        # who told of no result may have told why, in what is not shown
        relay.close(shows_unplaced=status != 0 and not result_file.exists())
    return _failed(ended)


def _wait(process: ChildProcess, driver_pid: Path) -> str:
    """Waits for spark-submit; SIGINT or SIGTERM goes on to the driver, which ends all in order.

    Returns what to say when there is no result.
    """

    received = signal.SIGINT

    def interrupt(signum: int, frame: object) -> NoReturn:
        nonlocal received
        received = signal.Signals(signum)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    for signum in signals:
        signal.signal(signum, interrupt)
    try:
        return without_result(process.wait())
    except KeyboardInterrupt:
        for signum in signals:
            signal.signal(signum, signal.SIG_IGN)
        print("\ntfos: interrupted; ending the run", file=sys.stderr)
    try:
        os.kill(int(driver_pid.read_text()), received)
        process.wait(_INTERRUPT_SECS)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass  # there is no driver yet, or it does not comply: the caller ends it
    return INTERRUPTED


def without_result(status: int) -> str:
    """What to say of a spark-submit that has ended, and whose driver has told nothing. Pure.

    status: negative for a signal. spark-submit is the driver's JVM, and ends with the driver's
    status, which is a shell's where a signal has ended it.
    """
    if status == -signal.SIGKILL:
        return JVM_GONE
    if status == _KILLED:
        return DRIVER_KILLED
    return f"spark-submit {describe_status(status)} before the run ended; see above"


def _failed(message: str) -> Result:
    return Result.not_started(Failure.of_driver(message).as_error())


def _report(result: Result, as_json: bool) -> int:
    """Prints how the run ended, the root cause last; returns the exit status."""
    sys.stderr.flush()
    if as_json:
        print(json.dumps(result.as_json()), flush=True)
    if result.error is None:
        return 0
    failure = Failure.from_error(result.error)
    print(f"tfos: the run failed: {describe(failure)}", file=sys.stderr)
    return _STATUS.get(failure.message, 1)


def main(argv: Sequence[str]) -> int:
    """pl_submit. Returns the exit status: 0 if and only if the run, or the command, succeeded."""
    if argv and argv[0] in COMMANDS:
        return operate(argv)
    submission = None
    try:
        given = parser().parse_args(argv)
        if given.pack and not given.app:
            pack(Path(given.pack).absolute(), _tell, given.conda)
            return 0
        find_java()
        submission = Submission(argv)
        if given.dry_run:
            submission.write_archive()  # and leaves it: the command is printed to be run
            print(shlex.join(submission.command()))
            return 0
        return _report(submit(submission), submission.options.json)
    except cluster_mode.Interrupted:
        return 130
    except KeyboardInterrupt:  # before there was a run
        print("\ntfos: interrupted", file=sys.stderr)
        return 130
    except TFOSError as error:
        if "--json" in before_app(argv) if submission is None else submission.options.json:
            print(json.dumps(_failed(str(error)).as_json()), flush=True)
        print(f"tfos: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _tell(message: str) -> None:
    print(f"tfos: {message}", file=sys.stderr)


def entry_point() -> NoReturn:
    sys.exit(main(sys.argv[1:]))
