"""pl_submit status, logs and cancel: their command lines. What status prints: render.py."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from tfos.cli.render import print_status
from tfos.client.control import cancel, check_known, has_driver, how_to_continue, read_status
from tfos.client.logs import Selection, follow_logs, read_logs
from tfos.client.status import headline
from tfos.errors import RegistryError, TFOSError, UsageError
from tfos.fault.failures import Failure
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys
from tfos.runtime.registry import read_public
from tfos.spec.job import JobSpec
from tfos.spec.result import Result

# kill is another name of cancel
COMMANDS = ("status", "logs", "cancel", "kill")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _attempt(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no attempt: use a number from 1")
    return int(text)


def parser(command: str) -> argparse.ArgumentParser:
    """The command line of one of COMMANDS. Its error() raises UsageError."""
    about = {
        "status": "Prints the state of a run: its roles, progress, checkpoint and failures.",
        "logs": "Prints the logs of a run's processes.",
        "cancel": "Ends a run as Ctrl-C does, from any machine, and waits until it has ended.",
        "kill": "The same as cancel: ends a run, and waits until it has ended.",
    }
    result = _Parser(f"pl_submit {command}", description=about[command], allow_abbrev=False)
    result.add_argument("run_id", metavar="RUN_ID", help="the name of the run")
    if command == "logs":
        result.add_argument(
            "role", metavar="ROLE[:I]", nargs="?",
            help="only the logs of a role, or of one of its processes, e.g. worker:1; driver: what"
            " Spark and TensorFlow said around it",
        )  # fmt: skip
        result.add_argument(
            "--attempt", metavar="N", type=_attempt, help="logs of that attempt, not the newest"
        )
        result.add_argument(
            "-f", "--follow", action="store_true", help="print what is added, until the run ends"
        )
    if command == "status":
        result.add_argument("--json", action="store_true", help="print it as one JSON object")
    result.add_argument(
        "--lake", metavar="DIR", help=f"the lake that holds the run, default {JobSpec.lake}"
    )
    result.add_argument(
        "--zookeeper", metavar="HOSTS",
        help="the run's ensemble; without --lake it says which lake a live run has",
    )  # fmt: skip
    return result


def main(argv: Sequence[str]) -> int:
    """pl_submit COMMAND ...: argv begins with one of COMMANDS. Returns the exit status."""
    try:
        # intermixed: an option may stand between RUN_ID and ROLE
        _run(argv[0], parser(argv[0]).parse_intermixed_args(argv[1:]))
        sys.stdout.flush()
    except TFOSError as error:
        print(f"tfos: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader has seen enough; what is still buffered must not fail at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(command: str, options: argparse.Namespace) -> None:
    if command == "logs":
        selection = Selection.parse(options.role)
        if selection.is_driver and options.attempt is not None:
            raise UsageError("--attempt: the driver has one log for all attempts; leave it out")
        lake = _find_run(options)
        if options.follow:
            is_live = functools.partial(has_driver, lake, options.zookeeper)
            _print_logs(follow_logs(lake, selection, options.attempt, is_live, _say))
        else:
            _print_logs(read_logs(lake, selection, options.attempt))
    elif command in ("cancel", "kill"):
        lake = _find_run(options)
        asked = f"asked the driver of run {lake.run_id} to end it"
        result = cancel(lake, options.zookeeper, on_asked=lambda: _say(asked))
        print(f"run {lake.run_id} ended: {_ending(result, lake, options.zookeeper)}")
    else:
        status = read_status(_find_run(options), options.zookeeper)
        if options.json:
            # JSON has no word for NaN and the infinities: they become null
            text = json.dumps(status.as_json())
            print(json.dumps(json.loads(text, parse_constant=lambda word: None)))
        else:
            print_status(status)


def _say(text: str) -> None:
    print(f"tfos: {text}", file=sys.stderr, flush=True)


def _print_logs(parts: Iterable[bytes]) -> None:
    # sys.stdout.buffer may be unbuffered (PYTHONUNBUFFERED), and then writes only a part at times
    with open(sys.stdout.fileno(), "wb", closefd=False) as sink:
        for part in parts:
            sink.write(part)
            sink.flush()


def _ending(result: Result | None, lake: RunDirectory, zookeeper: str | None) -> str:
    if result is None:
        return f"its driver is gone without a result; {how_to_continue(lake, zookeeper)}"
    cause = f": {headline(Failure.from_error(result.error))}" if result.error else ""
    return f"{result.status}{cause}"


def _find_run(options: argparse.Namespace) -> RunDirectory:
    """The lake of the run that the options name; LakeError when there is no such run."""
    run_id, url = options.run_id, options.lake
    if not run_id:
        raise UsageError("RUN_ID is empty: name a run")
    JobSpec.of(run_id=run_id, lake=JobSpec.lake if url is None else url)  # refuses bad values
    if url is None and options.zookeeper:
        url = read_public(options.zookeeper, keys.lake(run_id))
        if url is None:
            raise RegistryError(
                f"ZooKeeper at {options.zookeeper} has no run {run_id}: it was never there, or it"
                " has ended; if it has ended, name its lake with --lake"
            )
    lake = RunDirectory(JobSpec.lake if url is None else url, run_id)
    check_known(lake)
    return lake
