"""What to do after a failure: one pure function of the failures so far.

    decide(history, budget, topology) -> Restart(tasks, pause) | NewAttempt | GiveUp(cause)

An incident is what failed at one time, with the newest checkpoint at that time. Progress is
measured by that checkpoint: only incidents since it last advanced are counted, so that a run of
many hours survives many failures, and one that dies again and again at the same place does not go
on for ever.

Who says that it lost another process is the one to be replaced, as the other one may be well, and
reached by everybody else; see _Complaint. It pauses before it tries for the third time, and twice
as long before each next one, since a network takes its time.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tfos.compat.peer import lost_peer
from tfos.fault.failures import Failure, FailureKind, root_cause
from tfos.spec.roles import CHIEF, EVALUATOR, Task
from tfos.spec.times import TIMES
from tfos.spec.topology import Topology

# the longest pause, in first ones
_MOST_PAUSES = 16


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

    @property
    def causes(self) -> list[Failure]:
        """The cause, first, and what may as well be it: of echoes which was first is chance."""
        cause = self.cause
        others = (f for f in self.failures if f.may_echo and f.kind is cause.kind and f != cause)
        return [cause, *others] if cause.may_echo else [cause]


@dataclass(frozen=True)
class Restart:
    """Give these roles ("worker") or tasks ("worker-1") a new process each, in this attempt.

    pause_secs: how long to wait before.
    """

    names: frozenset[str]
    pause_secs: float = 0.0

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
    is_users = cause.role == EVALUATOR or topology.trains(cause.role)
    if cause.kind is FailureKind.EXCEPTION and is_users and not cause.may_echo:
        return GiveUp(cause)
    stalled = [earlier for earlier in history if earlier.step == incident.step]
    before = [failure for earlier in stalled[:-1] for failure in earlier.causes]
    for again in incident.causes:
        if any(_is_same(again, other, topology) for other in before):
            words = f"{again.message} (twice, with no checkpoint in between)"
            return GiveUp(dataclasses.replace(again, message=words))
    if len(stalled) > budget:
        return GiveUp(_spent(stalled, budget, topology))
    return _mend(stalled, topology)


@dataclass(frozen=True)
class _Complaint:
    """`by` could not reach `peer`, which has not failed. host: where that was noticed."""

    by: Task
    peer: Task
    host: str


def _complaints(incident: Incident, topology: Topology) -> list[_Complaint]:
    """Of tasks whose restart leaves the peer as it is."""
    failed = {failure.task for failure in incident.failures}
    found = []
    for failure in incident.failures:
        lost = lost_peer(failure.message) if failure.kind is FailureKind.PEER else None
        if lost is None or str(lost.peer) in failed:
            continue
        by = lost.by or Task(failure.role, failure.index)
        if lost.peer.role not in topology.restarts_with(by.role):
            found.append(_Complaint(by, lost.peer, failure.host))
    return found


def _mend(stalled: Sequence[Incident], topology: Topology) -> Restart | NewAttempt:
    """What the last of these incidents calls for, with what those before have said of peers."""
    decision: Restart | NewAttempt = NewAttempt()
    accused_on: dict[Task, set[str]] = defaultdict(set)
    tries: dict[Task, int] = defaultdict(int)
    for incident in stalled:
        complaints = _complaints(incident, topology)
        for complaint in complaints:
            accused_on[complaint.peer].add(complaint.host)
            tries[complaint.by] += 1
        # one machine whose network is bad may have several processes that say the same
        accused = {str(peer) for peer, hosts in accused_on.items() if len(hosts) > 1}
        by = {str(complaint.by) for complaint in complaints}
        decision = _replace(incident, by | accused, topology)
        if isinstance(decision, NewAttempt):
            accused_on.clear()
            continue
        for peer in [p for p in accused_on if decision.includes(p.role, p.index)]:
            del accused_on[peer]  # the next process in its place has lost nobody yet
        if len(complaints) == len(incident.failures) and not accused:
            most = max(tries[complaint.by] for complaint in complaints)
            decision = dataclasses.replace(decision, pause_secs=_pause(most))
    return decision


def _replace(incident: Incident, besides: set[str], topology: Topology) -> Restart | NewAttempt:
    """New processes for what failed and for `besides`, and for what goes with them."""
    if any(failure.kind in (FailureKind.SPARK, FailureKind.START) for failure in incident.failures):
        return NewAttempt()
    cause = incident.cause
    if cause.kind is FailureKind.HANG and cause.role == CHIEF:  # whose fault it is nobody knows
        return Restart(frozenset(task.role for job in topology.jobs() for task in job.tasks))
    tasks = {failure.task for failure in incident.failures} | besides
    together = [topology.restarts_with(Task.parse(task).role) for task in tasks]
    return Restart(frozenset(tasks).union(*(roles for roles in together if len(roles) > 1)))


def _pause(tries: int) -> float:
    """Before the next one after so many; the first one comes at once."""
    return min(2 ** (tries - 2), _MOST_PAUSES) * TIMES.pause_secs if tries > 1 else 0.0


def _is_same(one: Failure, other: Failure, topology: Topology) -> bool:
    # those that run one train() meet the same end, and which of them does so first is chance
    same = one.role == other.role or (topology.trains(one.role) and topology.trains(other.role))
    same = same and (one.kind, one.message) == (other.kind, other.message)
    # all processes that hang hang in the same words
    same = same and (one.kind is not FailureKind.HANG or one.task == other.task)
    return same and one.kind.is_deterministic


def _spent(stalled: Sequence[Incident], budget: int, topology: Topology) -> Failure:
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
    advice = [
        f"{c.by} could not reach {c.peer}, which has not failed: see to the network between their"
        " machines"
        for c in _complaints(stalled[-1], topology)
    ]
    return dataclasses.replace(first, message="\n".join([head, *lines, *advice]))
