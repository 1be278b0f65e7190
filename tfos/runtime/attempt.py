"""One attempt: the role jobs launched once, watched until they end."""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfos.display import Display
from tfos.errors import RegistryError, StartTimeout
from tfos.fault.failures import Failure, error_message, may_be_consequence, root_cause
from tfos.runtime import keys, preflight
from tfos.runtime.registry import Registry
from tfos.runtime.roles import RoleJob, Task, all_tasks, role_jobs, servers
from tfos.runtime.supervisor import AttemptPlan, supervise

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# how long a failure that may be a consequence waits for the one that explains it
_CAUSE_SECS = 3.0
_STOP_SECS = 15.0
_CANCEL_SECS = 10.0


class Attempt:
    """Runs the role jobs of `plan` and ends them, whatever happens.

    failure: the root cause when the attempt failed.
    start_secs: from the launch to the begin of train(); train_secs: from there to the end.
    """

    def __init__(
        self, spark: SparkSession, plan: AttemptPlan, registry: Registry, display: Display
    ) -> None:
        self._spark = spark
        self._plan = plan
        self._registry = registry
        self._display = display
        self._changed: queue.Queue[None] = queue.Queue()
        self._job_errors: dict[str, str] = {}
        self._jobs: dict[str, Any] = {}
        self._progress: Mapping[str, Any] | None = None
        self._begun = time.monotonic()
        self._train_begun: float | None = None
        self._up: set[str] = set()
        self._members: dict[str, Mapping[str, Any]] = {}
        self.failure: Failure | None = None
        self.start_secs = 0.0
        self.train_secs = 0.0

    def run(self) -> Mapping[str, Any]:
        """Blocks until the attempt is over; returns the chief's outcome, {} after a failure.

        Raises StartTimeout when the roles do not come up in time.
        """
        run_id, number = self._plan.run_id, self._plan.attempt
        tasks = all_tasks(self._plan.spec)
        self._display.line(f"starting {', '.join(map(str, tasks))}")
        for path in (keys.members, keys.ready, keys.failures):
            self._registry.watch_children(path(run_id, number), lambda _: self._changed.put(None))
        self._registry.watch(keys.outcome(run_id, number), lambda _: self._changed.put(None))
        self._registry.watch(keys.progress(run_id, number), self._progressed)
        try:
            for job in role_jobs(self._plan.spec):
                self._submit(job)
            return self._wait()
        finally:
            self._note_start()
            self.train_secs = time.monotonic() - (self._train_begun or time.monotonic())
            self._display.close()
            self._end()

    def _progressed(self, progress: Mapping[str, Any] | None) -> None:
        self._progress = progress
        self._changed.put(None)

    def _submit(self, job: RoleJob) -> None:
        from pyspark import InheritableThread

        context = self._spark.sparkContext
        plan, tasks = self._plan, job.tasks

        def submit() -> None:
            context.setJobGroup(self._group(job), f"tfos {plan.run_id} {job.name}", True)
            try:
                ended = (
                    context.parallelize(range(len(tasks)), len(tasks))
                    .barrier()
                    .mapPartitions(lambda _: supervise(plan, tasks))
                    .collect()
                )
                self._job_errors[job.name] = "; ".join(f"{task}: {why}" for task, why in ended)
            except Exception as error:
                self._job_errors[job.name] = error_message(error)
            self._changed.put(None)

        thread = InheritableThread(target=submit, name=f"tfos-{job.name}", daemon=True)
        self._jobs[job.name] = (job, thread)
        thread.start()

    def _group(self, job: RoleJob) -> str:
        return f"tfos-{self._plan.run_id}-{self._plan.attempt}-{job.name}"

    def _wait(self) -> Mapping[str, Any]:
        run_id, number = self._plan.run_id, self._plan.attempt
        deadline = self._begun + self._plan.spec.start_timeout_secs
        while True:
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=0.2)
            self._show()
            outcome = self._registry.get(keys.outcome(run_id, number))
            if outcome is not None:
                return dict(outcome)
            failures = self._failures()
            if failures:
                self.failure = self._root_cause(failures)
                # a supervisor that is done ends its job: what came first may be the success
                outcome = self._registry.get(keys.outcome(run_id, number))
                if outcome is not None:
                    self.failure = None
                return dict(outcome or {})
            if self._progress is None and time.monotonic() > deadline:
                self._raise_what_is_missing()

    def _show(self) -> None:
        """Tells the display which roles have come up since, and how far the training is."""
        if self._progress is None:
            run_id, number = self._plan.run_id, self._plan.attempt
            for name in self._registry.children(keys.ready(run_id, number)):
                if name not in self._up:
                    self._up.add(name)
                    member = self._registry.get(f"{keys.members(run_id, number)}/{name}") or {}
                    self._display.line(f"{name} is up on {member.get('host')}")
        else:
            self._note_start()
            self._display.progress(self._progress)

    def _note_start(self) -> None:
        if self._train_begun is None:
            self.start_secs = time.monotonic() - self._begun
            if self._progress is not None:
                self._train_begun = time.monotonic()

    def _failures(self) -> list[Failure]:
        path = keys.failures(self._plan.run_id, self._plan.attempt)
        records = [self._registry.get(f"{path}/{name}") for name in self._registry.children(path)]
        found = [Failure.from_json(record) for record in records if record]
        here = set(self._registry.children(keys.members(self._plan.run_id, self._plan.attempt)))
        for name in here - self._members.keys():
            path = f"{keys.members(self._plan.run_id, self._plan.attempt)}/{name}"
            self._members[name] = self._registry.get(path) or {}
        told = {failure.task for failure in found}
        for name in sorted(self._members.keys() - here - told):
            task = Task.parse(name)
            found.append(
                Failure(
                    task.role, task.index, str(self._members[name].get("host")), "spark",
                    "its supervisor is gone, and with it perhaps its executor or its host",
                    time=time.time(),
                )
            )  # fmt: skip
        for name, message in self._job_errors.items():
            task = failed_task(message, self._jobs[name][0])
            host = self._members.get(str(task), {}).get("host", socket.gethostname())
            found.append(
                Failure(
                    task.role, task.index, host, "spark",
                    f"the Spark job of the {name} roles ended: {message}", time=time.time(),
                )
            )  # fmt: skip
        return found

    def _root_cause(self, failures: list[Failure]) -> Failure:
        deadline = time.monotonic() + _CAUSE_SECS
        while may_be_consequence(root_cause(failures)) and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=0.1)
            failures = self._failures()
        return root_cause(failures)

    def _raise_what_is_missing(self) -> None:
        run_id, number = self._plan.run_id, self._plan.attempt
        here = {Task.parse(n) for n in self._registry.children(keys.members(run_id, number))}
        ready = {Task.parse(n) for n in self._registry.children(keys.ready(run_id, number))}
        absent = sorted(set(all_tasks(self._plan.spec)) - here)
        slow = sorted(servers(self._plan.spec) & here - ready)
        raise StartTimeout(
            f"not all roles came up within {self._plan.spec.start_timeout_secs:g} s: "
            + "; ".join(
                f"{what}: {', '.join(map(str, tasks))}"
                for what, tasks in (
                    ("never registered", absent),
                    ("TensorFlow not up", slow),
                    ("train() not begun", [] if absent or slow else [Task("chief", 0)]),
                )
                if tasks
            )
            + f"; {preflight.describe_slots(self._spark, self._plan.spec)}; raise"
            " --start-timeout-secs, or free slots on the cluster"
        )

    def _end(self) -> None:
        """Ends every supervisor, and the jobs that do not end by themselves."""
        with contextlib.suppress(RegistryError):  # then the supervisors lose the driver's node
            self._registry.put(keys.stop(self._plan.run_id, self._plan.attempt), True)
        self._join(_STOP_SECS)
        for job, thread in self._jobs.values():
            if thread.is_alive():
                with contextlib.suppress(Exception):  # the Spark context may be gone already
                    self._spark.sparkContext.cancelJobGroup(self._group(job))
        self._join(_CANCEL_SECS)

    def _join(self, secs: float) -> None:
        deadline = time.monotonic() + secs
        for _, thread in self._jobs.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def failed_task(message: str, job: RoleJob) -> Task:
    """The task that Spark's words about a failed barrier stage name; the job's first if none."""
    named = re.search(r"ResultTask\(\d+, (\d+)\)", message)
    return job.tasks[int(named.group(1)) if named else 0]
