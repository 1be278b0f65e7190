"""--strategy mxnet: a gang beside the servers and the scheduler of MXNet's KVStore."""

from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.options import option
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.strategies.gang.topology import Gang


@dataclass(frozen=True)
class MXNet(Gang):
    name: ClassVar[str] = "mxnet"
    summary: ClassVar[str] = "equal processes with the KVStore of MXNet"
    backend: ClassVar[str] = "mxnet_backend:Backend"

    num_servers: int = option(1, "servers of the KVStore, with --strategy mxnet", "N")

    def jobs(self) -> tuple[RoleJob, ...]:
        (train,) = super().jobs()
        servers = (Task("server", i) for i in range(self.num_servers))
        return (RoleJob("train", (*train.tasks, Task("scheduler", 0), *servers)),)

    def restarts_with(self, role: str) -> frozenset[str]:
        return frozenset(task.role for task in self.jobs()[0].tasks)

    def trains(self, role: str) -> bool:
        return role in (CHIEF, "worker")
