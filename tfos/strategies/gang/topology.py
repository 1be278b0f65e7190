"""N equal processes, ranks 0 to N - 1; each runs train(), and rank 0 is the chief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.options import option
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import Size, cores_of, gpus_of, memory_of, size_among
from tfos.spec.topology import Topology
from tfos.strategies.workers import num_workers

_WORKER = "worker"
# the status with which Open MPI ends a process that has lost its daemon, as when mpirun ends all
DAEMON_GONE = 195
_ALL = frozenset({CHIEF, _WORKER})


@dataclass(frozen=True)
class Gang(Topology):
    name: ClassVar[str] = "gang"
    summary: ClassVar[str] = "equal processes of any framework: PyTorch, JAX, XGBoost, Horovod"
    backend: ClassVar[str] = "tfos.strategies.gang.backend:Gang"
    preload: ClassVar[tuple[str, ...]] = ("tfos.strategies.gang.backend",)
    smaller: ClassVar[str] = "fewer --num-workers"
    waits_for_rows: ClassVar[str] = "a gang cannot begin before all rows are there"

    num_workers: int = num_workers()
    worker_memory: str = memory_of(_WORKER)
    worker_cores: int = cores_of(_WORKER)
    worker_gpus: int = gpus_of(_WORKER)
    mpi: bool = option(False, "under gang, an MPI world too, made by Open MPI's mpirun")

    def __post_init__(self) -> None:
        self.check_counts("num_workers")

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task(_WORKER, i) for i in range(self.num_workers - 1))
        return (RoleJob("train", (Task(CHIEF, 0), *workers)),)

    def waits_for(self, task: Task) -> frozenset[Task]:
        # each must have a process of the life that the others are in: they make one world
        return frozenset(self.jobs()[0].tasks)

    def is_ready_at_once(self, role: str) -> bool:
        return True

    def restarts_with(self, role: str) -> frozenset[str]:
        return _ALL

    def tells_of_a_lost_peer(self, status: int) -> bool:
        return self.mpi and status == DAEMON_GONE

    def trains(self, role: str) -> bool:
        return True

    def echoes(self, role: str) -> bool:
        return self.num_workers > 1

    def size_of(self, role: str) -> Size:
        return size_among(self, _WORKER)
