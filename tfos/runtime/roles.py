"""Which tasks a run has: those of its strategy, and the evaluator. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tfos.spec.job import JobSpec
from tfos.spec.roles import CHIEF, EVALUATOR, RoleJob, Task


def role_jobs(spec: JobSpec) -> tuple[RoleJob, ...]:
    """The barrier jobs of a run, in the order in which they are submitted."""
    evaluator = (Task(EVALUATOR, 0),) if spec.evaluator else ()
    return tuple(
        RoleJob(job.name, job.tasks + evaluator) if Task(CHIEF, 0) in job.tasks else job
        for job in spec.topology.jobs()
    )


def all_tasks(spec: JobSpec) -> tuple[Task, ...]:
    return tuple(task for job in role_jobs(spec) for task in job.tasks)


def addresses(members: Mapping[Task, str]) -> dict[str, list[str]]:
    """The "host:port" of every task, by role and in the order of the indices.

    The evaluator, which speaks with nobody, is left out.
    """
    result: dict[str, list[str]] = {}
    for task in sorted(task for task in members if task.role != EVALUATOR):
        result.setdefault(task.role, []).append(members[task])
    return result


def local_master(spec: JobSpec) -> str:
    """The Spark master when the user names none: this machine, a slot for each role.

    And one for making the feed, where that is asked for at the same time.
    """
    return f"local[{len(all_tasks(spec)) + (spec.overlap == 'on')}]"
