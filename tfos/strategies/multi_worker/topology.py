"""The chief is one of the workers; each runs train(), and gradients are summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import Size, cores_of, gpus_of, memory_of, size_among
from tfos.spec.topology import Topology
from tfos.strategies.environment import PRELOAD, check_keras, tensorflow_environment
from tfos.strategies.single.topology import BACKEND
from tfos.strategies.workers import num_workers

_ALL = frozenset({CHIEF, "worker"})


@dataclass(frozen=True)
class MultiWorker(Topology):
    name: ClassVar[str] = "multi-worker"
    summary: ClassVar[str] = "synchronous allreduce"
    backend: ClassVar[str] = "tfos.strategies.multi_worker.backend:MultiWorker"
    evaluator: ClassVar[str] = BACKEND
    preload: ClassVar[tuple[str, ...]] = PRELOAD
    smaller: ClassVar[str] = "fewer --num-workers"
    waits_for_rows: ClassVar[str] = "workers in step cannot begin before all rows are there"

    num_workers: int = num_workers()
    worker_memory: str = memory_of("worker")
    worker_cores: int = cores_of("worker")
    worker_gpus: int = gpus_of("worker")

    def __post_init__(self) -> None:
        self.check_counts("num_workers")

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task("worker", i) for i in range(self.num_workers - 1))
        return (RoleJob("train", (Task(CHIEF, 0), *workers)),)

    def waits_for(self, task: Task) -> frozenset[Task]:
        # each must have a process of the life that the others are in: one of an earlier life on the
        # same port would be taken for it
        return frozenset(self.jobs()[0].tasks) if task.role in _ALL else frozenset()

    def is_ready_at_once(self, role: str) -> bool:
        return role in _ALL

    def restarts_with(self, role: str) -> frozenset[str]:
        return _ALL if role in _ALL else frozenset({role})

    def trains(self, role: str) -> bool:
        return role in _ALL

    def size_of(self, role: str) -> Size:
        return size_among(self, "worker" if role == CHIEF else role)

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)

    def check_environment(self) -> None:
        check_keras(self.name)
