"""Executors that come and go, and those of a size of their own: what Spark's conf says. Pure.

Spark starts executors of another size than that of its conf under dynamic allocation alone, and
refuses barrier stages under it. So the roles are barrier stages where the executors are a given
number of one size, and plain stages where dynamic allocation is on.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tfos.errors import PreflightError
from tfos.runtime.roles import role_jobs
from tfos.spec.job import JobSpec
from tfos.spec.options import spellings
from tfos.spec.roles import RoleJob
from tfos.spec.sizes import JVM_MB, SERVER_MB, TASK_MB, Size, megabytes

_DYNAMIC = "spark.dynamicAllocation."
ENABLED = f"{_DYNAMIC}enabled"
_TRACKING = f"{_DYNAMIC}shuffleTracking."
_MOST = f"{_DYNAMIC}maxExecutors"
_INSTANCES = "spark.executor.instances"
_CORES = "spark.executor.cores"
_DISCOVERY = "spark.executor.resource.gpu.discoveryScript"
_PYSPARK, _OFF_HEAP = "spark.executor.pyspark.memory", "spark.memory.offHeap."
_AMOUNT = "spark.executor.resource.gpu.amount"
_VENDOR = "spark.executor.resource.gpu.vendor"


@dataclass(frozen=True)
class Request:
    """What a resource profile asks for, for an executor that runs one task.

    memory_mb: of the JVM; overhead_mb: of all else in its container; None: as in Spark's conf.
    """

    cores: int
    gpus: int
    memory_mb: int | None = None
    overhead_mb: int | None = None


def is_local(master: str) -> bool:
    """Whether the driver's own process is the one executor."""
    return master == "local" or master.startswith("local[")


def is_dynamic(master: str, conf: Mapping[str, str]) -> bool:
    return not is_local(master) and _is_true(conf, ENABLED)


def has_containers(master: str) -> bool:
    """Whether executors are containers, whose whole memory counts; else only the JVM's does."""
    return master.startswith(("yarn", "k8s"))


def given_executors(master: str, conf: Mapping[str, str]) -> int | None:
    """How many executors are asked for from the begin; None where they are no given number."""
    if is_dynamic(master, conf) or not has_containers(master):
        return None
    return int(conf.get(_INSTANCES, 2))  # Spark's default


def sized_jobs(spec: JobSpec) -> list[RoleJob]:
    """Those whose tasks have executors of a size of their own."""
    return [job for job in role_jobs(spec) if job.size]


def settings(spec: JobSpec, master: str, conf: Mapping[str, str]) -> dict[str, str]:
    """What Spark's conf lacks for executors of several sizes; {} where it says it, or nobody asks.

    To be set before the session begins.
    """
    jobs = sized_jobs(spec)
    if not jobs or is_local(master):
        return {}
    wanted: dict[str, str] = {}
    if ENABLED not in conf:
        # what the ETL leaves behind is in the lake: its executors make room for those of the roles
        wanted |= {ENABLED: "true", f"{_DYNAMIC}executorIdleTimeout": "30s"}
        if not _is_true(conf, "spark.shuffle.service.enabled"):
            wanted |= {f"{_TRACKING}enabled": "true", f"{_TRACKING}timeout": "300s"}
    if any(job.size.gpus for job in jobs) and _DISCOVERY in conf:
        wanted[_AMOUNT] = "0"  # Spark refuses a script without it; the ETL needs none
    return {key: value for key, value in wanted.items() if key not in conf}


def check(spec: JobSpec, master: str, conf: Mapping[str, str]) -> None:
    """Raises PreflightError for executors that are asked for and that this conf cannot give."""
    jobs = sized_jobs(spec)
    if jobs and is_local(master):
        raise PreflightError(
            f"{_options(spec)} asks for executors of their own, and --master {master} has one for"
            " all: leave it out, or name a cluster with --master"
        )
    if jobs and not is_dynamic(master, conf):
        raise PreflightError(
            f"{_options(spec)} asks for executors of another size, which Spark starts only under"
            f" dynamic allocation, and it is off: pass --conf {ENABLED}=true, before the session"
            " begins, or leave it out for pl_submit to set it"
        )
    if any(job.size.gpus for job in jobs) and has_containers(master):
        needed = (_DISCOVERY, _VENDOR) if master.startswith("k8s") else (_DISCOVERY,)
        missing = [key for key in needed if key not in conf]
        if missing:
            raise PreflightError(
                f"{_options(spec, 'gpus')} asks for GPUs, and Spark does not know how an executor"
                f" finds them: set {' and '.join(missing)}, see Spark's documentation"
            )
    if is_dynamic(master, conf) and _MOST in conf:
        for job in role_jobs(spec):
            slots = 1 if job.size else _slots(conf)
            if slots is not None and len(job.tasks) > int(conf[_MOST]) * slots:
                raise PreflightError(
                    f"the {job.name} roles are {len(job.tasks)} tasks, and {_MOST} is"
                    f" {conf[_MOST]}, which counts for executors of each size: raise it"
                )
    for job in jobs:
        request_of(job.size, master, conf)


def request_of(size: Size, master: str, conf: Mapping[str, str]) -> Request:
    """Raises PreflightError where other memory that Spark adds leaves too little."""
    # one role each, whatever its size: a second one would share memory that is meant for one
    cores = size.cores or int(conf.get(_CORES, 1))
    if not size.memory_mb:
        return Request(cores, size.gpus)
    if not has_containers(master):
        return Request(cores, size.gpus, size.memory_mb)
    rest = size.memory_mb - JVM_MB
    added = {_PYSPARK: megabytes(conf.get(_PYSPARK, "0"), "m") or 0.0}
    if _is_true(conf, f"{_OFF_HEAP}enabled"):
        added[f"{_OFF_HEAP}size"] = megabytes(conf.get(f"{_OFF_HEAP}size", "0")) or 0.0
    rest -= int(sum(added.values()))
    if rest < SERVER_MB + TASK_MB:
        named = ", ".join(f"{key} {value:.0f} MiB" for key, value in added.items() if value)
        raise PreflightError(
            f"executors of {size} have {rest} MiB for Python and TensorFlow, which take"
            f" {SERVER_MB + TASK_MB} before there is a model: Spark takes {JVM_MB} MiB for the JVM"
            f" and {named}; ask for more, or leave that out"
        )
    return Request(cores, size.gpus, JVM_MB, rest)


def what_is_too_many(spec: JobSpec, conf: Mapping[str, str]) -> str | None:
    """A warning of executors that Spark starts though no role asks for them, and the remedy."""
    for key in (_INSTANCES, f"{_DYNAMIC}initialExecutors", f"{_DYNAMIC}minExecutors"):
        count = int(conf.get(key, 0))
        if any(len(job.tasks) < count for job in sized_jobs(spec)):
            return (
                f"{key} is {count}, and Spark starts so many executors of each size: leave it out"
                f"{' (--num-executors)' if key == _INSTANCES else ''}"
            )
    return None


def describe(spec: JobSpec) -> str:
    """Which executors the roles ask for: "2 worker (8 GiB, 8 cores), 1 chief (as ...)"."""
    parts = [
        f"{n} {role} ({job.size})"
        for job in role_jobs(spec)
        for role, n in Counter(task.role for task in job.tasks).items()
    ]
    return ", ".join(parts)


def _options(spec: JobSpec, *kinds: str) -> str:
    """The first option of the run that asks for a size; kinds: of these alone."""
    fields = [(o, f) for o in (spec.topology, spec) for f in dataclasses.fields(o)]
    asked = [
        field.name
        for owner, field in fields
        if field.name.rpartition("_")[2] in (kinds or ("memory", "cores", "gpus"))
        and getattr(owner, field.name)
    ]
    return spellings(asked[0])


def _slots(conf: Mapping[str, str]) -> int | None:
    """Tasks that an executor of the conf's size runs at a time; None where that is not known."""
    cores = conf.get(_CORES)
    return int(cores) // int(conf.get("spark.task.cpus", 1)) if cores else None


def _is_true(conf: Mapping[str, str], key: str) -> bool:
    return conf.get(key, "false").lower() == "true"
