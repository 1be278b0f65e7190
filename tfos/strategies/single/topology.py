"""One process, the chief."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfos.spec.roles import CHIEF, RoleJob, Task
from tfos.spec.sizes import cores_of, gpus_of, memory_of
from tfos.spec.topology import Topology
from tfos.strategies.environment import PRELOAD, check_keras, tensorflow_environment

# also what evaluates checkpoints under the other strategies
BACKEND = "tfos.strategies.single.backend:Single"


@dataclass(frozen=True)
class Single(Topology):
    name: ClassVar[str] = "single"
    summary: ClassVar[str] = "one TensorFlow process"
    backend: ClassVar[str] = BACKEND
    evaluator: ClassVar[str] = BACKEND
    preload: ClassVar[tuple[str, ...]] = PRELOAD

    chief_memory: str = memory_of(CHIEF)
    chief_cores: int = cores_of(CHIEF)
    chief_gpus: int = gpus_of(CHIEF)

    def jobs(self) -> tuple[RoleJob, ...]:
        return (RoleJob("train", (Task(CHIEF, 0),)),)

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return tensorflow_environment(inherited)

    def check_environment(self) -> None:
        check_keras(self.name)
