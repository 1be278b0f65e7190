"""Which roles a run has, and the TensorFlow cluster they form. Pure.

A role job is one barrier stage. ps and chief/worker are separate jobs: they run side by side, and
later may need executors of different sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfos.spec import JobSpec


@dataclass(frozen=True, order=True)
class Task:
    """One role and its index: chief 0, ps 1, worker 12."""

    role: str
    index: int

    def __str__(self) -> str:
        return f"{self.role}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Task:
        role, _, index = text.rpartition("-")
        return cls(role, int(index))


@dataclass(frozen=True)
class RoleJob:
    """One barrier job; partition i of it supervises tasks[i]."""

    name: str
    tasks: tuple[Task, ...]


def role_jobs(spec: JobSpec) -> tuple[RoleJob, ...]:
    """The barrier jobs of a run, in the order in which they are submitted."""
    chief = Task("chief", 0)
    if spec.strategy == "single":
        return (RoleJob("train", (chief,)),)
    servers = tuple(Task("ps", i) for i in range(spec.num_ps))
    workers = tuple(Task("worker", i) for i in range(spec.num_workers))
    return (RoleJob("ps", servers), RoleJob("train", (chief, *workers)))


def all_tasks(spec: JobSpec) -> tuple[Task, ...]:
    return tuple(task for job in role_jobs(spec) for task in job.tasks)


def servers(spec: JobSpec) -> frozenset[Task]:
    """The tasks whose TensorFlow server must be up before the chief may begin."""
    return frozenset(task for task in all_tasks(spec) if task.role != "chief")


def cluster(members: Mapping[Task, str]) -> dict[str, list[str]]:
    """TensorFlow's cluster dict from the "host:port" of every task: {"ps": [...], ...}."""
    result: dict[str, list[str]] = {}
    for task in sorted(members):
        result.setdefault(task.role, []).append(members[task])
    return result


def local_master(spec: JobSpec) -> str:
    """The Spark master when the user names none: this machine, a slot for each role."""
    return f"local[{len(all_tasks(spec))}]"
