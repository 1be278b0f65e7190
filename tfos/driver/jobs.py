"""The Spark jobs of an attempt: one for each role job, a stage of supervisors.

A barrier stage, whose tasks start and end together; under dynamic allocation, which Spark refuses
for these, a plain one. Then a task that is lost ends the job as it would end a barrier stage, and
what Spark begins in its place never serves: see supervise().
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import lost_task
from tfos.driver.cluster import cluster_of
from tfos.driver.executors import Executors
from tfos.fault.failures import error_message, said_by
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.roles import role_jobs
from tfos.runtime.task import supervise
from tfos.spec.roles import RoleJob

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# between two looks for lost tasks, each some calls of the JVM
_LOOK_SECS = 0.5
_STOP_SECS = 15.0
_CANCEL_SECS = 10.0


class SparkJobs:
    """errors: why those that have ended did so, by name. changed: called when one has."""

    def __init__(
        self,
        spark: SparkSession,
        executors: Executors,
        plan: AttemptPlan,
        changed: Callable[[], None],
    ) -> None:
        self._spark = spark
        self._executors = executors
        self._plan = plan
        self._changed = changed
        self._begun: list[tuple[RoleJob, Any]] = []
        self._looked = 0.0
        self.errors: dict[str, str] = {}

    def begin(self) -> None:
        for job in role_jobs(self._plan.spec):
            self._submit(job)

    def _submit(self, job: RoleJob) -> None:
        cluster = cluster_of(self._spark)
        plan, tasks = self._plan, job.tasks

        def submit() -> None:
            cluster.group_jobs(self._group(job), f"tfos {plan.run_id} {job.name}")
            try:
                stage = self._executors.stage(job)
                ended = stage.mapPartitions(lambda _: supervise(plan, tasks)).collect()
                message = "; ".join(f"{task}: {why}" for task, why in ended)
            except Exception as error:
                message = error_message(error)
            self.errors.setdefault(job.name, message)
            self._changed()

        thread = cluster.thread(submit, f"tfos-{job.name}")
        self._begun.append((job, thread))
        thread.start()

    def look(self) -> None:
        """Ends the jobs of plain stages that have lost a task, as Spark ends barrier stages."""
        now = time.monotonic()
        if not self._executors.is_dynamic or now < self._looked + _LOOK_SECS:
            return
        self._looked = now
        for job, thread in self._begun:
            if not thread.is_alive() or job.name in self.errors:
                continue
            lost = None
            with contextlib.suppress(Exception):  # of a context that is gone the job itself tells
                lost = lost_task(self._spark.sparkContext, self._group(job))
            if lost is not None:
                stage, index, reason = lost
                self.errors[job.name] = f"ResultTask({stage}, {index}) failed: {said_by(reason)}"
                self._cancel(job)

    def _group(self, job: RoleJob) -> str:
        return f"tfos-{self._plan.run_id}-{self._plan.attempt}-{job.name}"

    def end(self) -> None:
        """Waits for the supervisors, which know that they are to end; cancels those that stay."""
        self._join(_STOP_SECS)
        for job, thread in self._begun:
            if thread.is_alive():
                self._cancel(job)
        self._join(_CANCEL_SECS)

    def _cancel(self, job: RoleJob) -> None:
        with contextlib.suppress(Exception):  # the Spark context may be gone already
            cluster_of(self._spark).cancel(self._group(job))

    def _join(self, secs: float) -> None:
        deadline = time.monotonic() + secs
        for _, thread in self._begun:
            thread.join(max(0.0, deadline - time.monotonic()))
