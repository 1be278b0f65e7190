"""Topology: what the driver and the supervisors know of a strategy. Pure.

A strategy has two halves. Its topology, here, says which roles there are and how they depend on
each other; its backend (tfos.runtime.backend) is what runs in a role's process. A package brings
one by an entry point of the group "tfos.strategies" that names its Topology; tfos finds its own in
the same way. docs/STRATEGIES.md says how to write one.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar

from tfos.errors import UsageError
from tfos.spec.options import spellings
from tfos.spec.roles import CHIEF, EVALUATOR, RoleJob, Task
from tfos.spec.sizes import Size, size_among

_GROUP = "tfos.strategies"


@dataclasses.dataclass(frozen=True)
class Topology(abc.ABC):
    """The shape of a run. A frozen dataclass, whose fields are the strategy's own options.

    Every strategy has one task chief-0. It runs train(), and its end is that of the run.

    Class attributes:
    name: as --strategy has it. summary: of the strategy, for --help.
    backend: "module:class" of its backend, imported in the processes of roles alone.
    evaluator: that of the process that evaluates the checkpoints; "" where it has none.
    smaller: what asks for fewer slots, for messages: "fewer --num-workers".
    preload: modules that a fork server imports before it forks processes of the roles. They must
        start no threads, and initialize nothing that does not survive a fork.
    waits_for_rows: why the training cannot begin before all rows of a feed are there; "" where it
        can.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    backend: ClassVar[str]
    evaluator: ClassVar[str] = ""
    smaller: ClassVar[str] = ""
    preload: ClassVar[tuple[str, ...]] = ()
    waits_for_rows: ClassVar[str] = ""

    @abc.abstractmethod
    def jobs(self) -> tuple[RoleJob, ...]:
        """The role jobs, in the order in which they are submitted. One of them has chief-0."""

    def waits_for(self, task: Task) -> frozenset[Task]:
        """The tasks that must be ready before `task` gets its start order.

        A task is ready when its backend says so (Host.ready), or see is_ready_at_once().
        """
        return frozenset()

    def is_ready_at_once(self, role: str) -> bool:
        """Whether a process of `role` is ready as soon as it is there.

        For processes that meet each other: none can say more before all have begun, and each has to
        see the others in their present lives.
        """
        return False

    def tells_of_a_lost_peer(self, status: int) -> bool:
        """Whether a process ends with this exit status when another one has gone."""
        return False

    def restarts_with(self, role: str) -> frozenset[str]:
        """The roles that get new processes when one of `role` has died; itself at least.

        A role alone: only the process that died.
        """
        return frozenset({role})

    def echoes(self, role: str) -> bool:
        """Whether an exception, or an abort, in `role` may be what another process's end has raised
        there, in words that only its framework knows.

        It is then the root cause where nothing else is, and not final the first time.
        """
        return False

    def trains(self, role: str) -> bool:
        """Whether `role` runs train(), so that an exception in it is the user's, and final.

        Where it echoes(), the second one in the same words is.
        """
        return role == CHIEF

    def computes(self, role: str) -> bool:
        """Whether `role` makes steps, or evaluates, and is given the GPUs of its task."""
        return True

    def size_of(self, role: str) -> Size:
        """The executor of each task of `role`: what the options of that name say, worker_memory.

        Tasks of one job whose sizes differ are launched as jobs of their own. Raises UsageError.
        """
        return size_among(self, role)

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        """Environment variables of a task's process, besides those that it inherits."""
        return {}

    def check_environment(self) -> None:
        """Called in the driver, whose packages are those of the executors, before anything starts.

        Raises UsageError where one is missing, or too old for the strategy.
        """
        return

    @classmethod
    def backend_of(cls, role: str) -> str:
        return cls.evaluator if role == EVALUATOR else cls.backend

    @classmethod
    def options(cls) -> tuple[dataclasses.Field[Any], ...]:
        return dataclasses.fields(cls)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Topology:
        """With those of `values` that are options of this strategy. Raises UsageError."""
        return cls(**{f.name: values[f.name] for f in cls.options() if f.name in values})

    def check_counts(self, *names: str) -> None:
        """Raises UsageError for a number of processes that is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{spellings(name)} is {getattr(self, name)}, but --strategy {self.name} needs"
                    " at least 1; to train in one process use --strategy single"
                )


@functools.lru_cache(maxsize=1)
def strategies() -> Mapping[str, type[Topology]]:
    """All that are installed, by name; loads the modules of their topologies.

    Raises UsageError where two declare one name, or one option in different ways.
    """
    found: dict[str, type[Topology]] = {}
    options: dict[str, dataclasses.Field[Any]] = {}
    for point in sorted(set(metadata.entry_points(group=_GROUP)), key=lambda point: point.name):
        if point.name in found:
            raise UsageError(f"two packages bring a strategy {point.name!r}: uninstall one of them")
        found[point.name] = topology = point.load()
        for each in topology.options():
            known = options.setdefault(each.name, each)
            if (known.default, known.metadata) != (each.default, each.metadata):
                raise UsageError(
                    f"strategy {point.name!r} ({point.value}) declares the option {each.name!r}"
                    " otherwise than another strategy: give it another name"
                )
    return found


def find(name: str) -> type[Topology]:
    """The strategy of this name. Raises UsageError."""
    known = strategies()
    if name not in known:
        raise UsageError(
            f"{spellings('strategy')} is {name!r}: use one of {tuple(known)}, or install the"
            " package that brings it, on every machine"
        )
    return known[name]
