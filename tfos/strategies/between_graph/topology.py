"""Each process builds the graph and runs train(); the variables are on parameter servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, EVALUATOR, Task
from tfos.spec.sizes import Size, size_among
from tfos.strategies.workers import WithServers

_BACKEND = "tfos.strategies.between_graph.backend"
# TF1's sessions recover from a server's death by themselves, but the chief then does not come out
# of its session; and without the chief nobody initializes what a new server lacks
_ALL = frozenset({CHIEF, "ps", "worker"})


@dataclass(frozen=True)
class BetweenGraph(WithServers):
    name: ClassVar[str] = "between-graph"
    summary: ClassVar[str] = "sessions of TF1 and Estimator over parameter servers"
    backend: ClassVar[str] = f"{_BACKEND}:BetweenGraph"
    evaluator: ClassVar[str] = backend
    preload: ClassVar[tuple[str, ...]] = (_BACKEND,)
    waits_for_rows: ClassVar[str] = "the workers' shares are those of all rows"

    @property
    def beside_chief(self) -> int:
        return self.num_workers - 1

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
