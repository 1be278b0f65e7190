"""The Spark jobs of an attempt: one for each role job, a barrier stage of supervisors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfos.fault.failures import error_message
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.roles import role_jobs
from tfos.runtime.supervisor import supervise
from tfos.spec.roles import RoleJob

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_STOP_SECS = 15.0
_CANCEL_SECS = 10.0


class SparkJobs:
    """errors: why those that have ended did so, by name. changed: called when one has."""

    def __init__(self, spark: SparkSession, plan: AttemptPlan, changed: Callable[[], None]) -> None:
        self._spark = spark
        self._plan = plan
        self._changed = changed
        self._begun: list[tuple[RoleJob, Any]] = []
        self.errors: dict[str, str] = {}

    def begin(self) -> None:
        for job in role_jobs(self._plan.spec):
            self._submit(job)

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
                self.errors[job.name] = "; ".join(f"{task}: {why}" for task, why in ended)
            except Exception as error:
                self.errors[job.name] = error_message(error)
            self._changed()

        thread = InheritableThread(target=submit, name=f"tfos-{job.name}", daemon=True)
        self._begun.append((job, thread))
        thread.start()

    def _group(self, job: RoleJob) -> str:
        return f"tfos-{self._plan.run_id}-{self._plan.attempt}-{job.name}"

    def end(self) -> None:
        """Waits for the supervisors, which know that they are to end; cancels those that stay."""
        self._join(_STOP_SECS)
        for job, thread in self._begun:
            if thread.is_alive():
                with contextlib.suppress(Exception):  # the Spark context may be gone already
                    self._spark.sparkContext.cancelJobGroup(self._group(job))
        self._join(_CANCEL_SECS)

    def _join(self, secs: float) -> None:
        deadline = time.monotonic() + secs
        for _, thread in self._begun:
            thread.join(max(0.0, deadline - time.monotonic()))
