"""Parameter servers hold the variables; workers compute; the chief hands out the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import cores_of, gpus_of, memory_of
from tfos.spec.topology import Topology
from tfos.strategies.environment import PRELOAD, check_keras, tensorflow_environment
from tfos.strategies.single.topology import BACKEND
from tfos.strategies.workers import num_ps, num_workers

# a server that lives on would keep the variables of the chief that is gone in its memory, beside
# those of the new one
_STATEFUL = frozenset({CHIEF, "ps"})
# a worker that tried to reach a server while there was none does not try again for a second (gRPC's
# connection backoff), in which the next chief's first unit would fail; a new process begins anew
_ALL = _STATEFUL | {"worker"}


@dataclass(frozen=True)
class ParameterServers(Topology):
    name: ClassVar[str] = "ps"
    summary: ClassVar[str] = "asynchronous parameter servers"
    backend: ClassVar[str] = "tfos.strategies.ps.backend:ParameterServers"
    evaluator: ClassVar[str] = BACKEND
    preload: ClassVar[tuple[str, ...]] = PRELOAD
    smaller: ClassVar[str] = "fewer --num-workers and --num-ps"

    num_ps: int = num_ps()
    num_workers: int = num_workers()
    ps_memory: str = memory_of("ps")
    ps_cores: int = cores_of("ps")
    worker_memory: str = memory_of("worker")
    worker_cores: int = cores_of("worker")
    worker_gpus: int = gpus_of("worker")
    chief_memory: str = memory_of(CHIEF)
    chief_cores: int = cores_of(CHIEF)

    def __post_init__(self) -> None:
        self.check_counts("num_ps", "num_workers")

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task("worker", i) for i in range(self.num_workers))
        return (
            RoleJob("ps", tuple(Task("ps", i) for i in range(self.num_ps))),
            RoleJob("train", (Task(CHIEF, 0), *workers)),
        )

    def waits_for(self, task: Task) -> frozenset[Task]:
        if task.role != CHIEF:
            return frozenset()
        return frozenset(t for job in self.jobs() for t in job.tasks if t.role != CHIEF)

    def restarts_with(self, role: str) -> frozenset[str]:
        return {CHIEF: _STATEFUL, "ps": _ALL}.get(role, frozenset({role}))

    def computes(self, role: str) -> bool:
        return role not in _STATEFUL

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)

    def check_environment(self) -> None:
        check_keras(self.name)
