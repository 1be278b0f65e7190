"""Which tasks a run has: those of its strategy, and the evaluator. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tfos.spec.job import JobSpec
from tfos.spec.roles import CHIEF, EVALUATOR, RoleJob, Task
from tfos.spec.sizes import Size


def role_jobs(spec: JobSpec) -> tuple[RoleJob, ...]:
    """The Spark jobs of a run, in the order in which they are submitted, each of one size."""
    evaluator = (Task(EVALUATOR, 0),) if spec.evaluator else ()
    jobs = (
        RoleJob(job.name, job.tasks + evaluator) if Task(CHIEF, 0) in job.tasks else job
        for job in spec.topology.jobs()
    )
    return tuple(part for job in jobs for part in _by_size(spec, job))


def _by_size(spec: JobSpec, job: RoleJob) -> list[RoleJob]:
    """The job, or where its tasks are to have executors of different sizes a job for each size."""
    groups: dict[Size, list[Task]] = {}
    for task in job.tasks:
        groups.setdefault(spec.size_of(task.role), []).append(task)
    names = {size: "-".join(dict.fromkeys(t.role for t in group)) for size, group in groups.items()}
    return [
        RoleJob(job.name if len(groups) == 1 else names[size], tuple(tasks), size)
        for size, tasks in groups.items()
    ]


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
