"""The state of a run as data. Pure.

A Status is assembled from plain dicts: a live run's from what its nodes in ZooKeeper hold, a
finished run's from its result.json. Who reads them is tfos.client.control.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos.fault.failures import Failure
from tfos.runtime.nodes import AttemptNodes
from tfos.spec.roles import Task

if TYPE_CHECKING:  # `import tfos` comes here
    from tfos.lake.run_directory import DriverLease


@dataclass(frozen=True)
class RoleStatus:
    """One task.

    state: "starting" (not up yet), "up", "training" (the chief, when rows are being trained on),
    "failed" (its process died; to be restarted), "gone" (its supervisor is), or "ended" (with the
    run).
    """

    task: str
    state: str
    host: str | None
    pid: int | None
    restarts: int


@dataclass(frozen=True)
class Status:
    """A run.

    state: "checking" (before its start), "running", "succeeded", "failed"; "unreachable": its
    driver lives, and its ZooKeeper does not answer here; or "dead": its driver left without a
    result.
    progress: the chief's, or {"phase", "secs"}: what is waited for and, where known, for how long.
    message: what a person should know besides: the root cause, or what to do.
    checkpoint: the newest: {"step", "age_secs"}; of a finished run also what the result says.
    evaluation: the evaluator's newest: {"step", "metrics", ...}.
    failures: the first one first.
    """

    run_id: str
    lake: str
    state: str
    attempt: int | None = None
    message: str = ""
    roles: tuple[RoleStatus, ...] = ()
    progress: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None
    failures: tuple[Failure, ...] = ()
    metrics: Mapping[str, Any] | None = None
    model: str | None = None
    seconds: Mapping[str, float] | None = None
    evaluation: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def live_status(
    run_id: str,
    lake: str,
    attempts: Mapping[int, AttemptNodes],
    checkpoint: Mapping[str, Any] | None,
    killed_by: str | None = None,
    phase: Mapping[str, Any] | None = None,
) -> Status:
    """A run whose driver lives.

    attempts: all that ZooKeeper holds, by number. phase: what the driver is at, {"text", "secs"};
    no text where it waits for the roles.
    """
    number = max(attempts, default=None)
    now = AttemptNodes() if number is None else attempts[number]
    tasks = sorted(Task.parse(name) for name in {*now.lives, *now.members})
    failures = (
        Failure.from_json(record)
        for nodes in attempts.values()
        for record in nodes.failures.values()
    )
    return Status(
        run_id,
        lake,
        "running",
        attempt=number,
        message=f"{killed_by} asked to end it" if killed_by else "",
        roles=tuple(_role(task, now, attempts.values()) for task in tasks),
        progress=_progress(tasks, now, phase or {}),
        checkpoint=checkpoint,
        failures=_by_time(failures),
    )


def _progress(
    tasks: Sequence[Task], now: AttemptNodes, phase: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """What is waited for, or how far the training is. now: the newest attempt."""
    if phase.get("text"):
        return {"phase": phase["text"], "secs": phase["secs"]}
    if now.progress is not None:
        return now.progress
    missing = [str(task) for task in tasks if _state(task, now) != "up"]
    text = f"{len(tasks) - len(missing)} of {len(tasks)} roles are up"
    if missing:
        text += f"; waiting for {', '.join(missing)}"
    return {"phase": text if tasks else "the roles are to start", "secs": phase.get("secs")}


def _role(task: Task, now: AttemptNodes, attempts: Iterable[AttemptNodes]) -> RoleStatus:
    name = str(task)
    member = now.members.get(name, {})
    return RoleStatus(
        name,
        _state(task, now),
        member.get("host"),
        member.get("pid"),
        sum(max(0, nodes.lives.get(name, 1) - 1) for nodes in attempts),
    )


def _state(task: Task, now: AttemptNodes) -> str:
    name = str(task)
    life = now.lives.get(name, 1)
    member = now.members.get(name)
    if member is None:
        # before training one that never came up is waited for; later it was there once
        is_new = now.progress is None and not any(
            key.rpartition(".")[0] == name for key in now.failures
        )
        return "starting" if is_new and life == 1 else "gone"
    if f"{name}.{life}" in now.failures:
        return "failed"
    if member.get("life", life) != life:
        return "starting"
    if task.role == "chief":  # it has no TensorFlow server that could be ready
        if now.progress is None:
            return "starting"
        return "training" if "rows" in now.progress else "up"
    return "up" if now.ready.get(name) == life else "starting"


def checked_status(run_id: str, lake: str, secs: float | None) -> Status:
    """A run that has no registry yet. secs: for how long it has been checked; None if unknown."""
    message = "is being checked before its start, unless its driver has died at that"
    return Status(
        run_id, lake, "checking", message=message,
        progress={"phase": "checks of the cluster and the lake", "secs": secs},
    )  # fmt: skip


def finished_status(
    run_id: str, lake: str, result: Mapping[str, Any], checkpoint: Mapping[str, Any] | None
) -> Status:
    """A run that has a result.json. The result may be of an older version, and then says less."""
    error = result.get("error")
    cause = Failure.from_error(error) if error else None
    records = result.get("failures")
    if records is None:
        failures: Iterable[Failure] = [cause] if cause else []
    else:
        failures = map(Failure.from_json, records)
    saved = {**(result.get("checkpoints") or {}), **(checkpoint or {})}
    return Status(
        run_id,
        lake,
        result["status"],
        attempt=result.get("attempts"),
        message=headline(cause) if cause else "",
        roles=tuple(
            RoleStatus(
                str(task),
                "failed" if cause and cause.task == str(task) else "ended",
                record.get("host"),
                record.get("pid"),
                record.get("restarts", 0),
            )
            for task, record in sorted(
                (Task.parse(name), record) for name, record in result.get("roles", {}).items()
            )
        ),
        checkpoint=saved if saved.get("step") is not None else None,
        failures=_by_time(failures),
        metrics=result.get("metrics"),
        model=result.get("model"),
        seconds=result.get("seconds"),
    )


def unreachable_status(run_id: str, lake: str, why: str, lease: DriverLease, pod: str) -> Status:
    """A run whose driver renews its lease, and cannot be asked.

    why: how that was seen. pod: NAMESPACE/NAME of the driver's, "" where it is in none.
    """
    command = shlex.join(["pl_submit", "status", run_id, "--lake", lake])
    place = f"on host {lease.host}"
    if pod:
        namespace, _, name = pod.partition("/")
        place, command = "in its pod", f"kubectl exec -n {namespace} {name} -- {command}"
    message = (
        f"{why}; but it lives: process {lease.pid} on host {lease.host} writes into the lake."
        f" Ask it {place}: {command}; pl_submit kill works from here, too"
    )
    return Status(run_id, lake, "unreachable", message=message)


def dead_status(
    run_id: str,
    lake: str,
    why: str,
    options: Sequence[str],
    checkpoint: Mapping[str, Any] | None,
) -> Status:
    """A run without a driver and without a result.

    why: how that was seen. options: as of resume_command().
    """
    message = f"{why}; continue the run with: {resume_command(run_id, lake, options)}"
    return Status(run_id, lake, "dead", message=message, checkpoint=checkpoint)


def resume_command(run_id: str, lake: str, options: Sequence[str] = ()) -> str:
    """The pl_submit that continues a run. options: where the run is, in words of pl_submit."""
    command = ["pl_submit", "--resume", "--run-id", run_id, "--lake", lake, *options, "app.py"]
    return shlex.join(command)


def headline(failure: Failure) -> str:
    """A failure in one line."""
    return f"{failure.role} {failure.index} on {failure.host}: {first_line(failure.message)}"


def local_time(secs: float) -> str:
    """Seconds since the epoch as a date and a time of day, here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))


def _by_time(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    return tuple(sorted(failures, key=lambda failure: failure.time))


def first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")
