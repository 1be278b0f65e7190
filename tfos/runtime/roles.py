"""Which roles a run has, and the TensorFlow cluster they form. Pure.

A role job is one barrier stage. ps and chief/worker are separate jobs: they run side by side, and
later may need executors of different sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfos.spec.job import JobSpec


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
    # under multi-worker the chief is one of the workers
    others = {"ps": spec.num_workers, "multi-worker": spec.num_workers - 1}.get(spec.strategy, 0)
    workers = tuple(Task("worker", i) for i in range(others))
    evaluator = (Task("evaluator", 0),) if spec.evaluator else ()
    train = RoleJob("train", (Task("chief", 0), *workers, *evaluator))
    if spec.strategy != "ps":
        return (train,)
    return (RoleJob("ps", tuple(Task("ps", i) for i in range(spec.num_ps))), train)


def all_tasks(spec: JobSpec) -> tuple[Task, ...]:
    return tuple(task for job in role_jobs(spec) for task in job.tasks)


def is_in_step(spec: JobSpec, role: str) -> bool:
    """Whether the processes of `role` run train() in step, and so come and go together."""
    return spec.strategy == "multi-worker" and role in ("chief", "worker")


def waits_for(spec: JobSpec, task: Task) -> frozenset[Task]:
    """The tasks that must be ready before `task` may start.

    A coordinator's servers must be up. Of workers in step each must have a process of the life that
    the others are in: one of an earlier life on the same port would be taken for it.
    """
    if is_in_step(spec, task.role):
        return frozenset(other for other in all_tasks(spec) if is_in_step(spec, other.role))
    if task.role != "chief":
        return frozenset()
    return frozenset(other for other in all_tasks(spec) if other.role in ("ps", "worker"))


def cluster(members: Mapping[Task, str]) -> dict[str, list[str]]:
    """TensorFlow's cluster dict from the "host:port" of every task: {"ps": [...], ...}.

    The evaluator is not part of it.
    """
    result: dict[str, list[str]] = {}
    for task in sorted(task for task in members if task.role != "evaluator"):
        result.setdefault(task.role, []).append(members[task])
    return result


def local_master(spec: JobSpec) -> str:
    """The Spark master when the user names none: this machine, a slot for each role.

    And one for making the feed, where that is asked for at the same time.
    """
    return f"local[{len(all_tasks(spec)) + (spec.overlap == 'on')}]"
