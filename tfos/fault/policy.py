"""What to do after a failure: one pure function of the failures so far.

    decide(history, budget, topology) -> Restart(tasks) | NewAttempt | GiveUp(cause)

An incident is what failed at one time, with the newest checkpoint at that time. Progress is
measured by that checkpoint: only incidents since it last advanced are counted, so that a run of
many hours survives many failures, and one that dies again and again at the same place does not go
on for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tfos.fault.failures import Failure, FailureKind, root_cause
from tfos.spec.roles import CHIEF, EVALUATOR
from tfos.spec.topology import Topology


@dataclass(frozen=True)
class Incident:
    """Failures that are dealt with together.

    step: of the newest checkpoint when it happened; 0 before the first.
    """

    failures: tuple[Failure, ...]
    step: int

    @property
    def cause(self) -> Failure:
        return root_cause(self.failures)


@dataclass(frozen=True)
class Restart:
    """Give these roles ("worker") or tasks ("worker-1") a new process each, in this attempt."""

    names: frozenset[str]

    def includes(self, role: str, index: int) -> bool:
        return role in self.names or f"{role}-{index}" in self.names


@dataclass(frozen=True)
class NewAttempt:
    """End this attempt and launch the role jobs again."""


@dataclass(frozen=True)
class GiveUp:
    """The run fails for this cause."""

    cause: Failure


Decision = Restart | NewAttempt | GiveUp


def decide(history: Sequence[Incident], budget: int, topology: Topology) -> Decision:
    """What to do about the last incident of `history`; about those before it was decided already.

    budget: incidents that may be survived without a new checkpoint in between.
    """
    incident = history[-1]
    cause = incident.cause
    if cause.kind is FailureKind.EXCEPTION and (
        cause.role == EVALUATOR or topology.trains(cause.role)
    ):
        return GiveUp(cause)
    stalled = [earlier for earlier in history if earlier.step == incident.step]
    if any(_is_same(cause, earlier.cause, topology) for earlier in stalled[:-1]):
        return GiveUp(
            dataclasses.replace(
                cause, message=f"{cause.message} (twice, with no checkpoint in between)"
            )
        )
    if len(stalled) > budget:
        return GiveUp(_spent(stalled, budget))
    if any(failure.kind in (FailureKind.SPARK, FailureKind.START) for failure in incident.failures):
        return NewAttempt()
    if cause.kind is FailureKind.HANG and cause.role == CHIEF:  # whose fault it is nobody knows
        return Restart(frozenset(task.role for job in topology.jobs() for task in job.tasks))
    names = {failure.task for failure in incident.failures}
    for failure in incident.failures:
        together = topology.restarts_with(failure.role)
        names.update(together if len(together) > 1 else ())
    return Restart(frozenset(names))


def _is_same(one: Failure, other: Failure, topology: Topology) -> bool:
    # those that run one train() meet the same end, and which of them does so first is chance
    same = one.role == other.role or (topology.trains(one.role) and topology.trains(other.role))
    same = same and (one.kind, one.message) == (other.kind, other.message)
    # all processes that hang hang in the same words
    same = same and (one.kind is not FailureKind.HANG or one.task == other.task)
    return same and one.kind.is_deterministic


def _spent(stalled: Sequence[Incident], budget: int) -> Failure:
    """The first failure of a crash loop, with the list of all in its message."""
    first = stalled[0].cause
    if budget == 0:
        return first
    lines = [
        f"  {number}. {i.cause.task} on {i.cause.host}: {i.cause.headline}"
        for number, i in enumerate(stalled, 1)
    ]
    head = (
        f"{first.message}; it was the first of {len(stalled)} failures with no checkpoint between"
        f" (--max-restarts {budget}):"
    )
    return dataclasses.replace(first, message="\n".join([head, *lines]))
