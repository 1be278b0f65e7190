"""Parameter servers hold the variables; workers compute; the chief hands out the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, Task
from tfos.spec.sizes import cores_of, memory_of
from tfos.strategies.environment import PRELOAD, check_keras
from tfos.strategies.single.topology import BACKEND
from tfos.strategies.workers import WithServers

# a server that lives on would keep the variables of the chief that is gone in its memory, beside
# those of the new one
_STATEFUL = frozenset({CHIEF, "ps"})
# a worker that tried to reach a server while there was none does not try again for a second (gRPC's
# connection backoff), in which the next chief's first unit would fail; a new process begins anew
_ALL = _STATEFUL | {"worker"}


@dataclass(frozen=True)
class ParameterServers(WithServers):
    name: ClassVar[str] = "ps"
    summary: ClassVar[str] = "asynchronous parameter servers"
    backend: ClassVar[str] = "tfos.strategies.ps.backend:ParameterServers"
    evaluator: ClassVar[str] = BACKEND
    preload: ClassVar[tuple[str, ...]] = PRELOAD

    chief_memory: str = memory_of(CHIEF)
    chief_cores: int = cores_of(CHIEF)

    def waits_for(self, task: Task) -> frozenset[Task]:
        if task.role != CHIEF:
            return frozenset()
        return frozenset(t for job in self.jobs() for t in job.tasks if t.role != CHIEF)

    def restarts_with(self, role: str) -> frozenset[str]:
        return {CHIEF: _STATEFUL, "ps": _ALL}.get(role, frozenset({role}))

    def computes(self, role: str) -> bool:
        return role not in _STATEFUL

    def check_environment(self) -> None:
        check_keras(self.name)
