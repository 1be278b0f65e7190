"""What a run is asked to be: JobSpec, and its three spellings.

Each field of JobSpec is a flag of pl_submit (num_ps: --num-ps), a Spark conf key
(spark.tfos.numPs) and an argument of TFOnSparkApp.run() (num_ps=1). Precedence, highest first:
argument of run(), flag, properties file or session conf, default. A flag reaches the driver as a
conf key, so only this module knows the spellings.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfos.errors import UsageError

CONF_PREFIX = "spark.tfos."
PARAM_PREFIX = CONF_PREFIX + "param."
# no option: pl_submit's name for one submission, which a driver that Spark starts again shares
SUBMISSION_CONF = CONF_PREFIX + "submission"
STRATEGIES = ("ps", "multi-worker", "single")
SPARE = ("auto", "on", "off")
OVERLAP = ("auto", "on", "off")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _option(default: Any, help: str, metavar: str | None = None) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class JobSpec:
    """A validated description of one run. Frozen; the running things are other classes.

    Raises UsageError when a value is out of range or two values contradict each other.
    """

    strategy: str = _option(
        "ps",
        "how to train: ps (asynchronous parameter servers), multi-worker (synchronous allreduce)"
        " or single (one TensorFlow process)",
        "{" + ",".join(STRATEGIES) + "}",
    )
    num_ps: int = _option(1, "parameter servers, with --strategy ps", "N")
    num_workers: int = _option(2, "workers; under multi-worker the chief is one of them", "N")
    evaluator: bool = _option(
        False, "evaluate each new checkpoint in a role of its own, while the training goes on"
    )
    zookeeper: str = _option(
        "", "ensemble as host:port,host:port/chroot; without it the driver starts a server", "HOSTS"
    )
    lake: str = _option("tfos-runs", "directory of all runs: a path or any fsspec URL", "DIR")
    run_id: str = _option("", "name of the run, and of its directory in the lake", "ID")
    resume: bool = _option(False, "continue the run --run-id from its newest checkpoint")
    checkpoint_secs: float = _option(60.0, "seconds between checkpoints inside an epoch", "SECS")
    max_restarts: int = _option(
        10, "failures that a run survives without a new checkpoint in between", "N"
    )
    hang_secs: float = _option(
        300.0, "seconds without progress after which a role counts as dead; 0: never", "SECS"
    )
    spare: str = _option(
        "auto",
        "keep a second TensorFlow process per role ready to take over: on, off, or auto, where"
        " memory allows",
        "{" + ",".join(SPARE) + "}",
    )
    overlap: str = _option(
        "auto",
        "begin to train on the first rows while the rest of the training feed is made: on, off, or"
        " auto, where the roles take a quarter of the slots at most",
        "{" + ",".join(OVERLAP) + "}",
    )
    start_timeout_secs: float = _option(
        120.0, "seconds to wait for slots, and for all roles to come up", "SECS"
    )
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UsageError(f"{_names('strategy')} is {self.strategy!r}: use one of {STRATEGIES}")
        if self.spare not in SPARE:
            raise UsageError(f"{_names('spare')} is {self.spare!r}: use one of {SPARE}")
        if self.overlap not in OVERLAP:
            raise UsageError(f"{_names('overlap')} is {self.overlap!r}: use one of {OVERLAP}")
        if self.overlap == "on" and self.strategy == "multi-worker":
            raise UsageError(
                f"{_names('overlap')} is on, but workers in step cannot begin before all rows are"
                " there: leave it out, or use --strategy ps"
            )
        for name in ("num_ps",) * (self.strategy == "ps") + ("num_workers",):
            if self.strategy != "single" and getattr(self, name) < 1:
                raise UsageError(
                    f"{_names(name)} is {getattr(self, name)}, but --strategy {self.strategy} needs"
                    " at least 1; to train in one process use --strategy single"
                )
        for name in ("checkpoint_secs", "start_timeout_secs"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{_names(name)} is {getattr(self, name)}: use a number above 0")
        for name in ("max_restarts", "hang_secs"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{_names(name)} is {getattr(self, name)}: use 0 or more")
        if not self.lake:
            raise UsageError(f"{_names('lake')} is empty: name a directory or an fsspec URL")
        if self.run_id and not _RUN_ID.fullmatch(self.run_id):
            raise UsageError(
                f"{_names('run_id')} is {self.run_id!r}: use letters, digits, '.', '_' and '-'"
            )
        if self.resume and not self.run_id:
            raise UsageError("--resume needs --run-id, the run to continue")

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def options() -> tuple[dataclasses.Field[Any], ...]:
    """The fields of JobSpec that are flags, conf keys and arguments: all but params."""
    return tuple(f for f in dataclasses.fields(JobSpec) if f.name != "params")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def conf_key(name: str) -> str:
    head, *rest = name.split("_")
    return CONF_PREFIX + head + "".join(part.capitalize() for part in rest)


def _names(name: str) -> str:
    return f"{flag(name)} (run({name}=...), {conf_key(name)})"


def new_run_id(app_name: str) -> str:
    """A run id that no other run has: the app's name, the UTC time and four random hex digits."""
    now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{app_stem(app_name)}-{now}-{secrets.token_hex(2)}"


def app_stem(app_name: str) -> str:
    """The name of an app as the beginning of a run id."""
    return (re.sub(r"[^A-Za-z0-9-]+", "-", app_name).strip("-").lower() or "run")[:60]


def _convert(name: str, value: Any, source: str) -> Any:
    """The value of option `name`, which may be text (a conf value) or already typed."""
    kind: Any = type(next(f.default for f in options() if f.name == name))
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and isinstance(value, (float, bool)):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"{source} is {value!r}: {_names(name)} takes {wanted}") from None


def job_spec(conf: Mapping[str, str], arguments: Mapping[str, Any]) -> JobSpec:
    """The JobSpec of Spark conf `conf` (all keys; others are passed over) and run()'s `arguments`.

    Raises UsageError for an unknown spark.tfos.* key or argument and for a bad value.
    """
    known = {conf_key(f.name): f.name for f in options()}
    values: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for key, text in conf.items():
        if key.startswith(PARAM_PREFIX):
            params[key[len(PARAM_PREFIX) :]] = text
        elif key.startswith(CONF_PREFIX) and key != SUBMISSION_CONF:
            if key not in known:
                raise UsageError(f"unknown Spark conf key {key}; tfos knows {sorted(known)}")
            values[known[key]] = _convert(known[key], text, key)
    for name, value in arguments.items():
        if name == "params":
            params.update(value)
        elif name not in known.values():
            raise UsageError(
                f"run() has no argument {name!r}; it takes spark, args, params and"
                f" {sorted(known.values())}"
            )
        elif value is not None:
            values[name] = _convert(name, value, f"run({name}=...)")
    return JobSpec(**values, params=params)
