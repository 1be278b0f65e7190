"""What a run is asked to be: JobSpec, and how its options are read.

Precedence of an option, highest first: argument of run(), flag, properties file or session conf,
default. A flag reaches the driver as a conf key, so only this room knows the spellings.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfos.errors import UsageError
from tfos.spec.options import CONF_PREFIX, conf_key, converted, option, spellings
from tfos.spec.roles import EVALUATOR
from tfos.spec.sizes import Size, cores_of, gpus_of, memory_of, size_among
from tfos.spec.topology import Topology, find, strategies

PARAM_PREFIX = CONF_PREFIX + "param."
# no option: pl_submit's name for one submission, which a driver that Spark starts again shares
SUBMISSION_CONF = CONF_PREFIX + "submission"
DEFAULT_STRATEGY = "ps"
SPARE = ("", "auto", "on", "off")
FORK = ("on", "off")
OVERLAP = ("auto", "on", "off")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class JobSpec:
    """A validated description of one run; made by of(). Frozen; running things are other classes.

    topology: the strategy, with its own options; the other fields are options of every run.
    Raises UsageError when a value is out of range or two values contradict each other.
    """

    topology: Topology
    evaluator: bool = option(
        False, "evaluate each new checkpoint in a role of its own, while the training goes on"
    )
    evaluator_memory: str = memory_of(EVALUATOR)
    evaluator_cores: int = cores_of(EVALUATOR)
    evaluator_gpus: int = gpus_of(EVALUATOR)
    zookeeper: str = option(
        "", "ensemble as host:port,host:port/chroot; without it the driver starts a server", "HOSTS"
    )
    lake: str = option("tfos-runs", "directory of all runs: a path or any fsspec URL", "DIR")
    run_id: str = option("", "name of the run, and of its directory in the lake", "ID")
    resume: bool = option(False, "continue the run --run-id from its newest checkpoint")
    checkpoint_secs: float = option(60.0, "seconds between checkpoints inside an epoch", "SECS")
    max_restarts: int = option(
        10, "failures that a run survives without a new checkpoint in between", "N"
    )
    hang_secs: float = option(
        300.0, "seconds without progress after which a role counts as dead; 0: never", "SECS"
    )
    fork: str = option(
        "on",
        "fork the processes of roles from one per executor that has imported TensorFlow, or off:"
        " start each anew",
        "{" + ",".join(FORK) + "}",
    )
    spare: str = option("", "without effect: a process that dies is replaced by a fork")
    overlap: str = option(
        "auto",
        "begin to train on the first rows while the rest of the training feed is made: on, off, or"
        " auto, where the roles take a quarter of the slots at most",
        "{" + ",".join(OVERLAP) + "}",
    )
    start_timeout_secs: float = option(
        120.0, "seconds to wait for slots, and for all roles to come up", "SECS"
    )
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: str = DEFAULT_STRATEGY, **values: Any) -> JobSpec:
        """The spec with these values of options; those of other strategies are passed over."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        unknown = values.keys() - known.keys() - {option.name for option in options()}
        if unknown:
            raise TypeError(f"there is no option {sorted(unknown)}")
        return cls(find(strategy).of(values), **known)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> JobSpec:
        """Of as_json(), or of a spec.json, which has more."""
        known = {"strategy", "params", *(option.name for option in options())}
        return cls.of(**{name: value for name, value in record.items() if name in known})

    def __post_init__(self) -> None:
        for name, choices in (("spare", SPARE), ("fork", FORK), ("overlap", OVERLAP)):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{spellings(name)} is {getattr(self, name)!r}: use one of {choices}"
                )
        if self.overlap == "on" and self.topology.waits_for_rows:
            raise UsageError(
                f"{spellings('overlap')} is on, but {self.topology.waits_for_rows}: leave it out,"
                " or use --strategy ps"
            )
        if self.evaluator and not self.topology.evaluator:
            raise UsageError(
                f"{spellings('evaluator')}: --strategy {self.strategy} has none; leave it out"
            )
        for role in {task.role for job in self.topology.jobs() for task in job.tasks} | {EVALUATOR}:
            self.size_of(role)
        for name in ("checkpoint_secs", "start_timeout_secs"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{spellings(name)} is {getattr(self, name)}: use a number above 0"
                )
        for name in ("max_restarts", "hang_secs"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{spellings(name)} is {getattr(self, name)}: use 0 or more")
        if not self.lake:
            raise UsageError(f"{spellings('lake')} is empty: name a directory or an fsspec URL")
        if self.run_id and not RUN_ID.fullmatch(self.run_id):
            raise UsageError(
                f"{spellings('run_id')} is {self.run_id!r}: use letters, digits, '.', '_' and '-'"
            )
        if self.resume and not self.run_id:
            raise UsageError("--resume needs --run-id, the run to continue")

    @property
    def strategy(self) -> str:
        return self.topology.name

    def size_of(self, role: str) -> Size:
        """What the executor of each task of `role` has."""
        return size_among(self, role) if role == EVALUATOR else self.topology.size_of(role)

    def as_json(self) -> dict[str, Any]:
        """Flat: the strategy's name and options beside the others."""
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}
        return {"strategy": self.strategy, **dataclasses.asdict(self.topology), **rest}


def options() -> tuple[dataclasses.Field[Any], ...]:
    """All that are flags, conf keys and arguments: of every run, and of any strategy."""
    text = "; ".join(f"{name}: {each.summary}" for name, each in strategies().items())
    strategy = option(DEFAULT_STRATEGY, f"how to train; {text}", "{" + ",".join(strategies()) + "}")
    strategy.name = "strategy"
    own = {each.name: each for kind in strategies().values() for each in kind.options()}
    common = [f for f in dataclasses.fields(JobSpec) if f.name not in ("topology", "params")]
    return (strategy, *own.values(), *common)


def new_run_id(app_name: str) -> str:
    """A run id that no other run has: the app's name, the UTC time and four random hex digits."""
    now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{app_stem(app_name)}-{now}-{secrets.token_hex(2)}"


def app_stem(app_name: str) -> str:
    """The name of an app as the beginning of a run id."""
    return (re.sub(r"[^A-Za-z0-9-]+", "-", app_name).strip("-").lower() or "run")[:60]


def param_of_text(text: str) -> Any:
    """An entry of ctx.params as --param and a conf key spell it: JSON, and all else is text."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # Python reads NaN, and 1e999, which are no JSON
    except ValueError:
        return text
    return value


def checked_params(params: Any) -> dict[str, Any]:
    """run(params=...), as train() will find it. Raises UsageError for what JSON cannot hold.

    A tuple becomes a list; all else is as it is.
    """
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise UsageError(f"run(params=...) is {params!r}: give a dict by name")
    for name, value in params.items():
        if not isinstance(name, str):
            raise UsageError(f"run(params=...) has the name {name!r}: use text")
        wrong = _not_json(value)
        if wrong:
            raise UsageError(
                f"run(params=...): {name!r} has {wrong}, which JSON cannot hold: use numbers, text,"
                " booleans, None, and lists, and dicts by text, of them"
            )
    found: dict[str, Any] = json.loads(json.dumps(dict(params)))
    return found


def _not_json(value: Any) -> str:
    """The part of a value that JSON cannot hold, in words; empty when it can hold all of it."""
    if isinstance(value, Mapping):
        keys = (f"the key {key!r}" for key in value if not isinstance(key, str))
        return next(keys, "") or _not_json(list(value.values()))
    if isinstance(value, list | tuple):
        return next(filter(None, map(_not_json, value)), "")
    if isinstance(value, float):
        return "" if math.isfinite(value) else repr(value)
    is_plain = value is None or isinstance(value, str | int)
    return "" if is_plain else f"{value!r} ({type(value).__name__})"


def job_spec(conf: Mapping[str, str], arguments: Mapping[str, Any]) -> JobSpec:
    """The JobSpec of Spark conf `conf` (all keys; others are passed over) and run()'s `arguments`.

    Raises UsageError for an unknown spark.tfos.* key or argument and for a bad value.
    """
    fields = {each.name: each for each in options()}
    keys = {conf_key(name): name for name in fields}
    values: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for key, text in conf.items():
        if key.startswith(PARAM_PREFIX):
            params[key[len(PARAM_PREFIX) :]] = param_of_text(text)
        elif key.startswith(CONF_PREFIX) and key != SUBMISSION_CONF:
            if key not in keys:
                raise UsageError(f"unknown Spark conf key {key}; tfos knows {sorted(keys)}")
            values[keys[key]] = converted(fields[keys[key]], text, key)
    for name, value in arguments.items():
        if name == "params":
            params.update(checked_params(value))
        elif name not in fields:
            raise UsageError(
                f"run() has no argument {name!r}; it takes spark, args, params and {sorted(fields)}"
            )
        elif value is not None:
            values[name] = converted(fields[name], value, f"run({name}=...)")
    return JobSpec.of(**values, params=params)
