"""Servers hold the weights as keys and values; workers pull and push; the chief hands out work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfos.errors import UsageError
from tfos.spec.options import option
from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import cores_of, gpus_of, memory_of
from tfos.spec.topology import Topology
from tfos.strategies.environment import PRELOAD, check_keras, tensorflow_environment
from tfos.strategies.workers import num_ps, num_workers

_ANY = "inf"


@dataclass(frozen=True)
class KeyValueStore(Topology):
    name: ClassVar[str] = "kv"
    summary: ClassVar[str] = "a key-value store of any number of rows, bounded staleness"
    backend: ClassVar[str] = "tfos.strategies.kv.backend:KeyValueStore"
    preload: ClassVar[tuple[str, ...]] = (*PRELOAD, "tfos.strategies.kv.training")
    smaller: ClassVar[str] = "fewer --num-workers and --num-ps"

    num_ps: int = num_ps()
    num_workers: int = num_workers()
    staleness: str = option(
        _ANY,
        "under kv, how many steps a worker may be ahead of the slowest one: 0 is synchronous",
        "STEPS",
    )
    ps_memory: str = memory_of("ps")
    ps_cores: int = cores_of("ps")
    worker_memory: str = memory_of("worker")
    worker_cores: int = cores_of("worker")
    worker_gpus: int = gpus_of("worker")
    chief_memory: str = memory_of(CHIEF)
    chief_cores: int = cores_of(CHIEF)

    def __post_init__(self) -> None:
        self.check_counts("num_ps", "num_workers")
        if self.staleness != _ANY and not self.staleness.isdecimal():
            raise UsageError(
                f"--staleness is {self.staleness!r}: use a number of steps, 0 or more, or {_ANY}"
            )

    @property
    def most_ahead(self) -> int | None:
        """The staleness as a number of steps, None for any."""
        return None if self.staleness == _ANY else int(self.staleness)

    def jobs(self) -> tuple[RoleJob, ...]:
        workers = (Task("worker", i) for i in range(self.num_workers))
        return (
            RoleJob("ps", tuple(Task("ps", i) for i in range(self.num_ps))),
            RoleJob("train", (Task(CHIEF, 0), *workers)),
        )

    def waits_for(self, task: Task) -> frozenset[Task]:
        if task.role == "ps":
            return frozenset()
        return frozenset(Task("ps", i) for i in range(self.num_ps))

    def restarts_with(self, role: str) -> frozenset[str]:
        if role == "worker":
            return frozenset({role})
        # what servers have, and where the training is, are of one moment in a checkpoint only
        return frozenset({CHIEF, "ps", "worker"})

    def trains(self, role: str) -> bool:
        return role != "ps"

    def computes(self, role: str) -> bool:
        return role == "worker"

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)

    def check_environment(self) -> None:
        check_keras(self.name)
