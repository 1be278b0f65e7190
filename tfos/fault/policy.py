"""What to do after a failure: one pure function of the failures so far.

    decide(history, budget, strategy) -> Restart(tasks) | NewAttempt | GiveUp(cause)

An incident is what failed at one time, with the newest checkpoint at that time. Progress is
measured by that checkpoint: only incidents since it last advanced are counted, so that a run of
many hours survives many failures, and one that dies again and again at the same place does not go
on for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tfos.fault.failures import Failure, root_cause

# of these kinds the second of the same words is no accident: an exception is deterministic, and
# so is an exit status, or a deadlock. A signal comes from outside
_DETERMINISTIC = ("exception", "exit", "start", "hang")
# the roles that hold the state of the training: when one dies, all go back to a checkpoint
_STATEFUL = {
    "single": frozenset({"chief"}),
    "ps": frozenset({"chief", "ps"}),
    "multi-worker": frozenset({"chief", "worker"}),
}
# the roles that run train()
_TRAINS = {
    "single": {"chief", "evaluator"},
    "ps": {"chief", "evaluator"},
    "multi-worker": {"chief", "worker", "evaluator"},
}


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


def decide(history: Sequence[Incident], budget: int, strategy: str) -> Decision:
    """What to do about the last incident of `history`; about those before it was decided already.

    budget: incidents that may be survived without a new checkpoint in between.
    strategy: as --strategy has it.
    """
    incident = history[-1]
    cause = incident.cause
    if cause.kind == "exception" and cause.role in _TRAINS[strategy]:
        return GiveUp(cause)
    stalled = [earlier for earlier in history if earlier.step == incident.step]
    if any(_is_same(cause, earlier.cause) for earlier in stalled[:-1]):
        return GiveUp(
            dataclasses.replace(
                cause, message=f"{cause.message} (twice, with no checkpoint in between)"
            )
        )
    if len(stalled) > budget:
        return GiveUp(_spent(stalled, budget))
    if any(failure.kind in ("spark", "start") for failure in incident.failures):
        return NewAttempt()
    if cause.kind == "hang" and cause.role == "chief":
        return Restart(frozenset({"chief", "ps", "worker"}))  # whose fault it is nobody knows
    tasks = {failure.task for failure in incident.failures}
    if any(failure.role in _STATEFUL[strategy] for failure in incident.failures):
        # a parameter server that lives on would keep the variables of the chief that is gone in
        # its memory, beside those of the new one; workers in step cannot go on without one of them
        tasks.update(_STATEFUL[strategy])
    return Restart(frozenset(tasks))


def _is_same(one: Failure, other: Failure) -> bool:
    same = (one.role, one.kind, one.message) == (other.role, other.kind, other.message)
    # all processes that hang hang in the same words
    same = same and (one.kind != "hang" or one.index == other.index)
    return same and one.kind in _DETERMINISTIC


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
