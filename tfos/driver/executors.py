"""The executors that role jobs run on, as Spark is asked for them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import knows_gpus
from tfos.driver import allocation
from tfos.driver.allocation import request_of
from tfos.driver.cluster import cluster_of
from tfos.driver.containers import what_is_too_small
from tfos.errors import PreflightError
from tfos.runtime.devices import GPU
from tfos.runtime.roles import role_jobs
from tfos.spec.job import JobSpec
from tfos.spec.roles import RoleJob
from tfos.spec.sizes import Size

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Executors:
    """Of one run: a new attempt asks for the same ones, so that those that are left are taken.

    is_dynamic: whether Spark starts them when tasks wait. Raises PreflightError where it cannot.
    """

    def __init__(self, spark: SparkSession, spec: JobSpec) -> None:
        self._cluster = cluster_of(spark)
        self._master = self._cluster.master
        self._conf = self._cluster.conf
        allocation.check(spec, self._master, self._conf)
        self.is_dynamic = allocation.is_dynamic(self._master, self._conf)
        if self.is_dynamic and self._cluster.jvm is None:
            raise PreflightError(
                "dynamic allocation is on, and under Spark Connect lost tasks are not seen:"
                f" start the server with {allocation.ENABLED}=false and a number of executors"
            )
        self._spec = spec
        self._profiles: dict[Size, Any] = {}
        self._lock = threading.Lock()

    def stage(self, job: RoleJob) -> Any:
        """What has mapPartitions(), with a partition for each task of the job. Thread-safe."""
        rdd: Any = self._cluster.tasks(len(job.tasks), barrier=not self.is_dynamic)
        if not self.is_dynamic:
            return rdd
        with self._lock:  # jobs are submitted by threads of their own
            return rdd.withResources(self._profile(job.size)) if job.size else rdd

    def _profile(self, size: Size) -> Any:
        from pyspark.resource import (
            ExecutorResourceRequests,
            ResourceProfileBuilder,
            TaskResourceRequests,
        )

        if size not in self._profiles:
            request = request_of(size, self._master, self._conf)
            executor = ExecutorResourceRequests().cores(request.cores)
            # all of its cores: one task on each executor
            task = TaskResourceRequests().cpus(request.cores)
            if request.memory_mb is not None:
                executor.memory(f"{request.memory_mb}m")
            if request.overhead_mb is not None:
                executor.memoryOverhead(f"{request.overhead_mb}m")
            if request.gpus:
                found_by = self._conf.get("spark.executor.resource.gpu.discoveryScript", "")
                vendor = self._conf.get("spark.executor.resource.gpu.vendor", "")
                executor.resource(GPU, request.gpus, found_by, vendor)
                task.resource(GPU, request.gpus)
            self._profiles[size] = ResourceProfileBuilder().require(executor).require(task).build
        return self._profiles[size]

    def tell(self) -> list[str]:
        """What the user is to know before they are asked for."""
        jobs = role_jobs(self._spec)
        lines = []
        if any(job.size for job in jobs):
            lines.append(f"executors, by dynamic allocation: {allocation.describe(self._spec)}")
        too_many = allocation.what_is_too_many(self._spec, self._conf)
        lines += [f"warning: {too_many}"] if too_many else []
        is_yarn = self._master.startswith("yarn")
        if is_yarn and any(job.size.gpus for job in jobs) and not knows_gpus(self._cluster.jvm):
            lines.append(
                "warning: YARN has no resource yarn.io/gpu in the configuration that is here: then"
                " it does not count GPUs, and executors of one machine may be given the same one"
            )
        takes_others = any(not job.size.memory_mb for job in jobs)
        if takes_others and allocation.has_containers(self._master):
            problem = what_is_too_small(self._conf)
            lines += [f"warning: {problem}"] if problem else []
        return lines
