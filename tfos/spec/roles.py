"""A role of a run, and the jobs that launch roles."""

from __future__ import annotations

from dataclasses import dataclass

from tfos.spec.sizes import AS_OTHERS, Size

CHIEF = "chief"
EVALUATOR = "evaluator"


@dataclass(frozen=True, order=True)
class Task:
    """One role and its index: chief 0, ps 1, worker 12."""

    role: str
    index: int

    def __str__(self) -> str:
        return f"{self.role}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Task:
        role, _, index = text.rpartition("-")
        return cls(role, int(index))


@dataclass(frozen=True)
class RoleJob:
    """One Spark job; partition i of it supervises tasks[i].

    size: of the executors that it asks for, one each task; see Topology.size_of().
    """

    name: str
    tasks: tuple[Task, ...]
    size: Size = AS_OTHERS
