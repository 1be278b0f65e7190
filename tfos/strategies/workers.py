"""What several strategies have in common: workers, and servers beside them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tfos.spec.options import option
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import cores_of, gpus_of, memory_of
from tfos.spec.topology import Topology
from tfos.strategies.environment import tensorflow_environment


def num_workers() -> Any:
    text = "workers; under multi-worker, between-graph and gang the chief is one of them"
    return option(2, text, "N")


@dataclass(frozen=True)
class WithServers(Topology):
    """Servers, a chief, and workers beside it, all on TensorFlow."""

    smaller: ClassVar[str] = "fewer --num-workers and --num-ps"

    num_ps: int = option(1, "servers, with --strategy ps, kv or between-graph", "N")
    num_workers: int = num_workers()
    ps_memory: str = memory_of("ps")
    ps_cores: int = cores_of("ps")
    worker_memory: str = memory_of("worker")
    worker_cores: int = cores_of("worker")
    worker_gpus: int = gpus_of("worker")

    def __post_init__(self) -> None:
        self.check_counts("num_ps", "num_workers")

    @property
    def beside_chief(self) -> int:
        """How many tasks are workers."""
        return self.num_workers

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task("worker", i) for i in range(self.beside_chief))
        return (
            RoleJob("ps", tuple(Task("ps", i) for i in range(self.num_ps))),
            RoleJob("train", (Task(CHIEF, 0), *workers)),
        )

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)
