"""What has failed in an attempt: decided from what was seen of it, and the time. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from tfos.compat.texts import FAILED_BARRIER_TASK
from tfos.fault.failures import Failure, FailureKind
from tfos.runtime.nodes import AttemptNodes
from tfos.runtime.roles import all_tasks, role_jobs
from tfos.spec.job import JobSpec
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.times import TIMES

# what another process's end may bring about: its framework raises, or aborts
_ECHOES = (FailureKind.EXCEPTION, FailureKind.CRASH)


class Detector:
    """Follows one attempt. Times are seconds of one monotonic clock, but for `at`: of the epoch.

    lives: the life that each task is to be in.
    roles: of each task, what was known of it last: host, pid, life.
    """

    def __init__(self, spec: JobSpec, attempt: int, now: float) -> None:
        self._spec = spec
        self._attempt = attempt
        self._jobs = {job.name: job for job in role_jobs(spec)}
        self._deadline = now + spec.start_timeout_secs
        # the tasks whose next process is to come up before the deadline
        self._awaited: set[Task] = set()
        self._missing: dict[str, float] = {}
        self.lives = dict.fromkeys(all_tasks(spec), 1)
        self.roles: dict[str, Mapping[str, Any]] = {}

    def restarted(self, tasks: Iterable[Task], now: float) -> None:
        """They are to be in their next lives, and up in time."""
        for task in tasks:
            self.lives[task] += 1
            self._awaited.add(task)
        self._deadline = now + self._spec.start_timeout_secs

    def is_over_time(self, now: float) -> bool:
        """Whether the time is over for what was to come up last."""
        return now > self._deadline

    def failures(
        self,
        nodes: AttemptNodes,
        job_errors: Mapping[str, str],
        is_settled: bool,
        now: float,
        at: float,
    ) -> list[Failure]:
        """What has failed and has not been dealt with. To be asked often: absence takes its time.

        job_errors: why the Spark jobs that have ended did so, by name.
        is_settled: whether the members have had the time to be seen: see Registry.is_settled.
        at: the time of the failures that nobody told of.
        """
        self._see(nodes, now)
        found = []
        for name, record in nodes.failures.items():
            of, _, life = name.rpartition(".")
            # a process that was to be replaced may fail in its own way before it is; 0: never begun
            if int(life) in (0, self.lives[Task.parse(of)]):
                found.append(self._told(Failure.from_json(record)))
        told = {failure.task for failure in found}
        for name in self._gone(now) if is_settled else []:
            if name not in told:
                words = "its supervisor is gone, and with it perhaps its executor or its host"
                found.append(self._failure(Task.parse(name), words, at))
        told = {failure.task for failure in found}
        for job_name, message in job_errors.items():
            words = f"the Spark job of the {job_name} roles ended: {message}"
            task = failed_task(message, self._jobs[job_name], told, self._missing)
            found.append(self._failure(task, words, at))
        if not found:
            words = (
                f"its next process was not up within {self._spec.start_timeout_secs:g} s; if that"
                " is too short for fetching a checkpoint, raise --start-timeout-secs"
            )
            late = self._late(nodes, now)
            found += [self._failure(task, words, at, FailureKind.START) for task in late]
        return found

    def _told(self, failure: Failure) -> Failure:
        echoes = self._spec.topology.echoes(failure.role)
        return replace(failure, may_echo=echoes and failure.kind in _ECHOES)

    def not_up(self, nodes: AttemptNodes) -> str:
        """What has not come up of what the training waits for, in words."""
        here, ready = set(map(Task.parse, nodes.members)), set(map(Task.parse, nodes.ready))
        absent = sorted(self.lives.keys() - here)
        slow = sorted(self._spec.topology.waits_for(Task(CHIEF, 0)) & here - ready)
        parts = {
            "never registered": absent,
            "TensorFlow not up": slow,
            "train() not begun": [] if absent or slow else [Task(CHIEF, 0)],
        }
        return "; ".join(f"{what}: {', '.join(map(str, of))}" for what, of in parts.items() if of)

    def _failure(
        self, task: Task, message: str, at: float, kind: FailureKind = FailureKind.SPARK
    ) -> Failure:
        host = self.roles.get(str(task), {}).get("host", "unknown host")
        return Failure(
            task.role, task.index, host, kind, message, time=at,
            attempt=self._attempt, life=self.lives[task],
        )  # fmt: skip

    def _see(self, nodes: AttemptNodes, now: float) -> None:
        self.roles.update(nodes.members)
        absent = self.roles.keys() - nodes.members.keys()
        self._missing = {name: self._missing.get(name, now) for name in absent}

    def _gone(self, now: float) -> list[str]:
        """The members that were there and have been missing for long."""
        return sorted(n for n, since in self._missing.items() if now - since > TIMES.missing_secs)

    def _late(self, nodes: AttemptNodes, now: float) -> list[Task]:
        """The tasks that were restarted and are not up, when the time for it is over."""
        for task in sorted(self._awaited):
            # of workers in step "ready" says no more than that there is a process
            is_up = (
                (nodes.progress or {}).get("life") == self.lives[task]
                if task.role == CHIEF
                else nodes.ready.get(str(task)) == self.lives[task]
            )
            if is_up:
                self._awaited.discard(task)
        return sorted(self._awaited) if self.is_over_time(now) else []


def failed_task(
    message: str, job: RoleJob, told: Collection[str] = (), missing: Collection[str] = ()
) -> Task:
    """The task of `job` that failed.

    That is the one that Spark's words about a failed barrier stage name; where they name none, one
    that told of a failure, or that is missing; the job's first when nothing is known.
    """
    named = FAILED_BARRIER_TASK.search(message)
    if named:
        return job.tasks[int(named.group(1))]
    return min(job.tasks, key=lambda task: (str(task) not in told, str(task) not in missing))
