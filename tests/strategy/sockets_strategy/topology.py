"""One chief, and peers that serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.options import option
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.topology import Topology


@dataclass(frozen=True)
class Sockets(Topology):
    name: ClassVar[str] = "sockets"
    summary: ClassVar[str] = "gradients of a line over sockets"
    backend: ClassVar[str] = "sockets_strategy.backend:SocketsBackend"
    smaller: ClassVar[str] = "fewer --num-peers"

    num_peers: int = option(2, "peers, with --strategy sockets", "N")

    def __post_init__(self) -> None:
        self.check_counts("num_peers")

    def jobs(self) -> tuple[RoleJob, ...]:
        peers = (Task("peer", i) for i in range(self.num_peers))
        return (RoleJob("train", (Task(CHIEF, 0), *peers)),)

    def waits_for(self, task: Task) -> frozenset[Task]:
        if task.role != CHIEF:
            return frozenset()
        return frozenset(self.jobs()[0].tasks) - {task}
