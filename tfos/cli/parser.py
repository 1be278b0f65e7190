"""The command line of pl_submit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from tfos.errors import UsageError
from tfos.spec.job import PARAM_PREFIX, SUBMISSION_CONF, options
from tfos.spec.options import conf_key, flag
from tfos.version import __version__

# spark-submit's own options with a value, passed through; --conf and --class are handled apart
SPARK_OPTIONS = (
    *("master", "deploy-mode", "name", "queue", "properties-file", "py-files", "files"),
    *("archives", "jars", "packages", "driver-memory", "driver-cores", "num-executors"),
    *("executor-memory", "executor-cores", "principal", "keytab", "proxy-user"),
)

# ours with a value that are no options of a run
_WITH_VALUE = ("conf", "param", "class", "pack", "submission", "conda")


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
        "--submission", metavar="NAME",
        help="what a submission shares with those that repeat it, such as a Job's uid: the same"
        " again continues a run whose driver died, and ends as the run has ended"
        f" [{SUBMISSION_CONF}]",
    )  # fmt: skip
    ours.add_argument(
        "--pack", metavar="ENV.tar.gz",
        help="run on a cluster with this environment and its Python, of which the archive is made"
        " first if it is not there or the environment has changed; without app.py only that",
    )  # fmt: skip
    ours.add_argument(
        "--conda", metavar="ENV",
        help="the conda environment that --pack packs, with conda-pack: its name or folder; without"
        " it the environment of pl_submit itself",
    )  # fmt: skip
    ours.add_argument(
        "--json", action="store_true", help="print result.json as the last line of stdout"
    )
    ours.add_argument(
        "--dry-run", action="store_true", help="print the spark-submit command; run nothing"
    )
    ours.add_argument("--version", action="version", version=f"tfos {__version__}")
    spark = result.add_argument_group("spark-submit", "passed through; see spark-submit --help")
    for name in SPARK_OPTIONS:
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


def before_app(argv: Sequence[str]) -> Sequence[str]:
    """The words that are ours, of a command line that cannot be parsed."""
    with_value = {f"--{name}" for name in (*SPARK_OPTIONS, *_WITH_VALUE)}
    with_value.update(flag(each.name) for each in options() if not isinstance(each.default, bool))
    for at, word in enumerate(argv):
        if word.endswith(".py") and not (at and argv[at - 1] in with_value):
            return argv[:at]
    return argv
