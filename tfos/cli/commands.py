"""pl_submit status, logs and kill: their command lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tfos.cli.render import print_status
from tfos.client.control import has_driver, kill, read_status
from tfos.client.logs import Selection, follow_logs, print_logs
from tfos.errors import LakeError, RegistryError, TFOSError, UsageError
from tfos.lake.run_directory import RunDirectory, run_ids
from tfos.runtime import keys
from tfos.runtime.registry import read_public
from tfos.spec.job import JobSpec

COMMANDS = ("status", "logs", "kill")
_RUNS_NAMED = 10


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
        "kill": "Ends a run as Ctrl-C does, from any machine, and waits until it has ended.",
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
            follow_logs(
                lake, selection, options.attempt, lambda: has_driver(lake, options.zookeeper)
            )
        else:
            print_logs(lake, selection, options.attempt)
    elif command == "kill":
        kill(_find_run(options), options.zookeeper)
    else:
        status = read_status(_find_run(options), options.zookeeper)
        if options.json:
            # JSON has no word for NaN and the infinities: they become null
            text = json.dumps(status.as_json())
            print(json.dumps(json.loads(text, parse_constant=lambda word: None)))
        else:
            print_status(status)


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
    if not lake.is_there():
        if lake.exists(""):
            raise LakeError(
                f"run {run_id} in {lake.url} never got further than the checks before its start:"
                " there is only its directory"
            )
        runs = run_ids(lake.url)
        more = f" and {len(runs) - _RUNS_NAMED} more" if len(runs) > _RUNS_NAMED else ""
        there = ", ".join(runs[:_RUNS_NAMED]) + more if runs else "no run at all"
        raise LakeError(
            f"there is no run {run_id} in {lake.url}, which holds {there}; check RUN_ID and --lake"
        )
    return lake
