"""Servers hold the weights as keys and values; workers pull and push; the chief hands out work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfos.errors import UsageError
from tfos.spec.options import option
from tfos.spec.roles import CHIEF, Task
from tfos.spec.sizes import cores_of, memory_of
from tfos.strategies.environment import PRELOAD, check_keras
from tfos.strategies.workers import WithServers

_ANY = "inf"


@dataclass(frozen=True)
class KeyValueStore(WithServers):
    name: ClassVar[str] = "kv"
    summary: ClassVar[str] = "a key-value store of any number of rows, bounded staleness"
    backend: ClassVar[str] = "tfos.strategies.kv.backend:KeyValueStore"
    evaluator: ClassVar[str] = "tfos.strategies.kv.evaluator:Evaluating"
    preload: ClassVar[tuple[str, ...]] = (*PRELOAD, "tfos.strategies.kv.training")

    staleness: str = option(
        _ANY,
        "under kv, how many steps a worker may be ahead of the slowest one: 0 is synchronous",
        "STEPS",
    )
    chief_memory: str = memory_of(CHIEF)
    chief_cores: int = cores_of(CHIEF)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.staleness != _ANY and not self.staleness.isdecimal():
            raise UsageError(
                f"--staleness is {self.staleness!r}: use a number of steps, 0 or more, or {_ANY}"
            )

    @property
    def most_ahead(self) -> int | None:
        """The staleness as a number of steps, None for any."""
        return None if self.staleness == _ANY else int(self.staleness)

    def waits_for(self, task: Task) -> frozenset[Task]:
        if task.role not in {CHIEF, "worker"}:
            return frozenset()
        return frozenset(Task("ps", i) for i in range(self.num_ps))

    def restarts_with(self, role: str) -> frozenset[str]:
        # a chief goes on where the one before was; what other servers have is later than what one
        # finds in a snapshot
        return frozenset({CHIEF, "ps", "worker"} if role == "ps" else {role})

    def trains(self, role: str) -> bool:
        return role in {CHIEF, "worker"}

    def computes(self, role: str) -> bool:
        return role not in {CHIEF, "ps"}

    def check_environment(self) -> None:
        check_keras(self.name)
