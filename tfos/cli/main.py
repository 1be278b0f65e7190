"""pl_submit: builds a spark-submit command for an app, runs it, and reports how it ended."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
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

from tfos.cli.commands import COMMANDS
from tfos.cli.commands import main as operate
from tfos.cli.driver_log import DriverLog
from tfos.cli.relay import Relay
from tfos.driver.display import TERMINAL_ENV
from tfos.driver.run import DRIVER_PID
from tfos.driver.shipping import archive_of, sources
from tfos.driver.summary import STARTED_ENV
from tfos.errors import TFOSError, UsageError
from tfos.fault.failures import Failure, describe
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import absolute
from tfos.runtime.java import find_java, spark_home
from tfos.runtime.process import ChildProcess, describe_status
from tfos.runtime.roles import local_master
from tfos.spec.job import PARAM_PREFIX, SUBMISSION_CONF, job_spec, new_run_id, options
from tfos.spec.options import conf_key, flag
from tfos.spec.result import RESULT_FILE_ENV, RUN_FILE, Result
from tfos.version import __version__

# spark-submit's own options with a value, passed through; --conf and --class are handled apart
_SPARK_OPTIONS = (
    *("master", "deploy-mode", "name", "queue", "properties-file", "py-files", "files"),
    *("archives", "jars", "packages", "driver-memory", "driver-cores", "num-executors"),
    *("executor-memory", "executor-cores", "principal", "keytab", "proxy-user"),
)
_INTERRUPT_SECS = 20.0
_RUNNER = Path(__file__).with_name("script.py")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see pl_submit --help")


def parser() -> argparse.ArgumentParser:
    """The command line of pl_submit. Its error() raises UsageError."""
    result = _Parser(
        prog="pl_submit",
        usage="pl_submit [options] app.py [app args]",
        description="Runs a TFOnSparkApp on Spark: ETL, TensorFlow training, recovery.",
        epilog="Runs that were submitted: pl_submit status RUN_ID, pl_submit logs RUN_ID [ROLE:I]"
        " and pl_submit cancel RUN_ID, from any machine that sees the lake; each has a --help.",
        allow_abbrev=False,
    )
    ours = result.add_argument_group("tfos", "each also a Spark conf key, in brackets; flags win")
    for option in options():
        text = f"{option.metadata['help']} [{conf_key(option.name)}"
        default = option.default
        if isinstance(default, bool):
            ours.add_argument(flag(option.name), action="store_const", const=True, help=f"{text}]")
        else:
            shown = (
                f", default {default:g}" if isinstance(default, float) else f", default {default}"
            )
            ours.add_argument(
                flag(option.name),
                metavar=option.metadata["metavar"],
                help=text + (shown if default != "" else "") + "]",
            )
    ours.add_argument(
        "--param", metavar="K=V", action="append", default=[],
        help=f"an entry of ctx.params: JSON, else text; may be repeated [{PARAM_PREFIX}K]",
    )  # fmt: skip
    ours.add_argument(
        "--class", dest="app_class", metavar="NAME", help="the TFOnSparkApp in app.py"
    )
    ours.add_argument(
        "--json", action="store_true", help="print result.json as the last line of stdout"
    )
    ours.add_argument(
        "--dry-run", action="store_true", help="print the spark-submit command; run nothing"
    )
    ours.add_argument("--version", action="version", version=f"tfos {__version__}")
    spark = result.add_argument_group("spark-submit", "passed through; see spark-submit --help")
    for name in _SPARK_OPTIONS:
        spark.add_argument(f"--{name}", metavar="X")
    spark.add_argument("--conf", metavar="K=V", action="append", default=[])
    spark.add_argument(
        "-v", "--verbose", action="store_true",
        help="show what Spark and TensorFlow say as well, at level INFO",
    )  # fmt: skip
    result.add_argument(
        "app", metavar="app.py [args]", nargs=argparse.REMAINDER,
        help="the file with the TFOnSparkApp, and its own arguments",
    )  # fmt: skip
    return result


def _key_value(text: str, source: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{source} {text!r}: write {source} KEY=VALUE")
    return key, value


def _properties(path: str) -> dict[str, str]:
    """The settings of a Spark properties file, as spark-submit reads it."""
    conf = {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"--properties-file {path}: {error.strerror}") from error
    for line in lines:
        setting = re.fullmatch(r"([^=:\s]+)(?:\s*[=:]\s*|\s+)?(.*)", line.strip())
        if setting and not line.lstrip().startswith(("#", "!")):
            conf[setting.group(1)] = setting.group(2)
    return conf


def _defaults() -> dict[str, str]:
    """The settings of spark-defaults.conf, which spark-submit reads without a properties file."""
    home = os.environ.get("SPARK_CONF_DIR") or str(spark_home() / "conf")
    path = Path(home, "spark-defaults.conf")
    return _properties(str(path)) if path.exists() else {}


class Submission:
    """One command line of pl_submit, validated. Raises UsageError."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.options = given = parser().parse_args(argv)
        if not given.app:
            raise UsageError("no app.py given; usage: pl_submit [options] app.py [app args]")
        conf = _properties(given.properties_file) if given.properties_file else _defaults()
        conf.update(_key_value(text, "--conf") for text in given.conf)
        flags = {
            option.name: value
            for option in options()
            if (value := getattr(given, option.name)) is not None
        }
        params = {
            PARAM_PREFIX + key: text
            for key, text in (_key_value(text, "--param") for text in given.param)
        }
        spec = job_spec({**conf, **params}, flags)
        self.app = Path(given.app[0]).resolve()
        if not self.app.is_file():
            raise UsageError(f"app.py not found: there is no file {self.app}")
        self.run_id = spec.run_id or new_run_id(given.name or self.app.stem)
        # the driver may have another working directory
        self.lake = absolute(spec.lake)
        self.is_cluster_mode = (
            given.deploy_mode or conf.get("spark.submit.deployMode")
        ) == "cluster"
        defaults = {
            "spark.pyspark.python": sys.executable,
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "INFO" if given.verbose else "ERROR",
        }
        self._conf = {
            **{key: value for key, value in defaults.items() if key not in conf},
            **dict(_key_value(text, "--conf") for text in given.conf),
            **{conf_key(k): str(v).lower() if v is True else str(v) for k, v in flags.items()},
            **params,
            conf_key("lake"): self.lake,
            SUBMISSION_CONF: secrets.token_hex(8),
        }
        if self.is_cluster_mode:  # the result will be looked for in the lake, by this name
            self._conf[conf_key("run_id")] = self.run_id
        else:  # the executors' Python may lie inside an archive
            self._conf.setdefault("spark.pyspark.driver.python", sys.executable)
        files = sources(self.app.parent) if self.is_cluster_mode else []
        self._modules = [file for file in files if file.parent == self.app.parent]
        self._packages = [file for file in files if file.parent != self.app.parent]
        # --py-files takes no folders
        self._archive = Path(tempfile.gettempdir(), f"tfos-app-{self.run_id}.zip")
        self._master = given.master or conf.get("spark.master") or local_master(spec)

    def write_archive(self) -> Path | None:
        """Writes the packages that travel to the driver, which command() names, if there are any.

        Returns the file: spark-submit reads it while it submits.
        """
        if not self._packages:
            return None
        self._archive.write_bytes(archive_of(self.app.parent, self._packages))
        return self._archive

    def command(self) -> list[str]:
        """The spark-submit command, ready to run; see write_archive()."""
        given = self.options
        command = [str(spark_home() / "bin" / "spark-submit"), "--master", self._master]
        for name in _SPARK_OPTIONS:
            value = getattr(given, name.replace("-", "_"))
            if name == "py-files" and self.is_cluster_mode:
                # the driver is on another machine: the app travels with its modules
                packages = [self._archive] if self._packages else []
                value = ",".join([*([value] if value else []), *map(str, self._modules + packages)])
            if name == "files" and self.is_cluster_mode:
                value = ",".join([*([value] if value else []), str(self.app)])
            if name == "name":
                value = value or self.app.stem
            if value and name != "master":
                command += [f"--{name}", value]
        if given.verbose:
            command.append("--verbose")
        for key, value in self._conf.items():
            command += ["--conf", f"{key}={value}"]
        command.append(str(_RUNNER))
        if given.app_class:
            command += ["--class", given.app_class]
        app = self.app.name if self.is_cluster_mode else str(self.app)
        return [*command, app, *given.app[1:]]


def submit(submission: Submission) -> Result:
    """Runs spark-submit to its end; returns the run's result. Ctrl-C ends the run."""
    scratch = tempfile.mkdtemp(prefix="tfos-submit-")
    result_file = Path(scratch, "result.json")
    env = {
        **os.environ,
        RESULT_FILE_ENV: str(result_file),
        STARTED_ENV: os.environ.get(STARTED_ENV, str(time.time())),
        "PYTHONUNBUFFERED": "1",
    }
    if sys.stderr.isatty():
        size = shutil.get_terminal_size()
        env.update({TERMINAL_ENV: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)})
    stderr = sys.stderr.fileno()
    relay = None
    if not submission.is_cluster_mode:  # where all that spark-submit says is of the application
        log = DriverLog(result_file.with_name(RUN_FILE), scratch)
        relay = Relay(stderr, log, shows_all=submission.options.verbose)
    # spark-submit merges the driver's stdout and stderr; ours stays free for the result. In a
    # group of its own Ctrl-C reaches the driver from us, once, and not Spark's JVM first
    archive = submission.write_archive()
    process = ChildProcess(
        submission.command(), env=env, scratch=scratch,
        log=relay.driver if relay else stderr, errors=relay.jvm if relay else None,
    )  # fmt: skip
    try:
        if relay:
            relay.begin()
        ended = _wait(process, result_file.with_name(DRIVER_PID))
        if result_file.exists():
            result = Result.from_json(json.loads(result_file.read_text()))
            if result.status == "succeeded" and process.poll() != 0:
                message = "app.py failed after its run had succeeded; see above"
                return result.failed(Failure.of_driver(message).as_error())
            return result
        if process.poll() == 0 and not submission.is_cluster_mode:
            return Result(None, "succeeded")  # app.py --help
    finally:
        status = process.end(keep_scratch=True)
        if relay:  # who told of no result may have told why, in what is not shown
            relay.close(shows_unplaced=status != 0 and not result_file.exists())
        shutil.rmtree(scratch, ignore_errors=True)
        if archive is not None:
            archive.unlink()
    if submission.is_cluster_mode:
        lake = RunDirectory(submission.lake, submission.run_id)
        record = lake.result()
        if record is not None:
            return Result.from_json(record)
        if ended == "interrupted":
            ended = "pl_submit was interrupted; the application goes on: end it on its cluster"
    return _failed(ended)


def _wait(process: ChildProcess, driver_pid: Path) -> str:
    """Waits for spark-submit; SIGINT or SIGTERM interrupts the driver, which ends all in order.

    Returns what to say when there is no result.
    """

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    for signum in signals:
        signal.signal(signum, interrupt)
    try:
        status = describe_status(process.wait())
        return f"spark-submit {status} before the run ended; see above"
    except KeyboardInterrupt:
        for signum in signals:
            signal.signal(signum, signal.SIG_IGN)
        print("\ntfos: interrupted; ending the run", file=sys.stderr)
    try:
        os.kill(int(driver_pid.read_text()), signal.SIGINT)
        process.wait(_INTERRUPT_SECS)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass  # there is no driver yet, or it does not comply: the caller ends it
    return "interrupted"


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
    return 130 if failure.message == "interrupted" else 1


def _before_app(argv: Sequence[str]) -> Sequence[str]:
    """The words that are ours, of a command line that cannot be parsed."""
    with_value = {f"--{name}" for name in (*_SPARK_OPTIONS, "conf", "param", "class")}
    with_value.update(flag(each.name) for each in options() if not isinstance(each.default, bool))
    for at, word in enumerate(argv):
        if word.endswith(".py") and not (at and argv[at - 1] in with_value):
            return argv[:at]
    return argv


def main(argv: Sequence[str]) -> int:
    """pl_submit. Returns the exit status: 0 if and only if the run, or the command, succeeded."""
    if argv and argv[0] in COMMANDS:
        return operate(argv)
    submission = None
    try:
        find_java()
        submission = Submission(argv)
        if submission.options.dry_run:
            submission.write_archive()  # and leaves it: the command is printed to be run
            print(shlex.join(submission.command()))
            return 0
        return _report(submit(submission), submission.options.json)
    except TFOSError as error:
        if "--json" in _before_app(argv) if submission is None else submission.options.json:
            print(json.dumps(_failed(str(error)).as_json()), flush=True)
        print(f"tfos: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def entry_point() -> NoReturn:
    sys.exit(main(sys.argv[1:]))
