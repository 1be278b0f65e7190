"""Each process builds the graph and runs train(); the variables are on parameter servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, EVALUATOR, RoleJob, Task
from tfos.spec.sizes import Size, cores_of, gpus_of, memory_of, size_among
from tfos.spec.topology import Topology
from tfos.strategies.environment import tensorflow_environment
from tfos.strategies.workers import num_ps, num_workers

_BACKEND = "tfos.strategies.between_graph.backend"
# TF1's sessions recover from a server's death by themselves, but the chief then does not come out
# of its session; and without the chief nobody initializes what a new server lacks
_ALL = frozenset({CHIEF, "ps", "worker"})


@dataclass(frozen=True)
class BetweenGraph(Topology):
    name: ClassVar[str] = "between-graph"
    summary: ClassVar[str] = "sessions of TF1 and Estimator over parameter servers"
    backend: ClassVar[str] = f"{_BACKEND}:BetweenGraph"
    evaluator: ClassVar[str] = backend
    preload: ClassVar[tuple[str, ...]] = (_BACKEND,)
    smaller: ClassVar[str] = "fewer --num-workers and --num-ps"
    waits_for_rows: ClassVar[str] = "the workers' shares are those of all rows"

    num_ps: int = num_ps()
    num_workers: int = num_workers()
    ps_memory: str = memory_of("ps")
    ps_cores: int = cores_of("ps")
    worker_memory: str = memory_of("worker")
    worker_cores: int = cores_of("worker")
    worker_gpus: int = gpus_of("worker")

    def __post_init__(self) -> None:
        self.check_counts("num_ps", "num_workers")

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task("worker", i) for i in range(self.num_workers - 1))
        return (
            RoleJob("ps", tuple(Task("ps", i) for i in range(self.num_ps))),
            RoleJob("train", (Task(CHIEF, 0), *workers)),
        )

    def waits_for(self, task: Task) -> frozenset[Task]:
        """Not for the chief, which initializes: only sessions know when it has."""
        return frozenset(self.jobs()[0].tasks) if task.role in (CHIEF, "worker") else frozenset()

    def restarts_with(self, role: str) -> frozenset[str]:
        return _ALL if role in (CHIEF, "ps") else frozenset({role})

    def trains(self, role: str) -> bool:
        return role != EVALUATOR

    def computes(self, role: str) -> bool:
        return role != "ps"

    def size_of(self, role: str) -> Size:
        return size_among(self, "worker" if role == CHIEF else role)

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)
