"""Who may begin a step when: synchronous, bounded staleness, asynchronous. Pure.

A worker's clock is the number of steps that it has finished. With staleness s it may begin the next
one while it is at most s steps ahead of the slowest (stale synchronous parallel, Ho et al. 2013),
so what it reads has all steps of everybody but the newest s of its own count. 0 is bulk
synchronous, None asynchronous.
"""

from __future__ import annotations


class Clocks:
    """staleness: in steps, or None for any. Raises ValueError when negative."""

    def __init__(self, staleness: int | None) -> None:
        if staleness is not None and staleness < 0:
            raise ValueError(f"staleness is {staleness}: use 0 or more, or None for asynchronous")
        self.staleness = staleness
        self._clocks: dict[str, int] = {}
        # where one that joins begins when there is nobody
        self._slowest = 0

    @property
    def slowest(self) -> int:
        return min(self._clocks.values(), default=self._slowest)

    @property
    def clocks(self) -> dict[str, int]:
        return dict(self._clocks)

    def join(self, worker: str) -> None:
        """It begins beside the slowest, so that it holds up nobody for steps that are past."""
        self._clocks.setdefault(worker, self.slowest)

    def leave(self, worker: str) -> None:
        """It is waited for no more. One that is not there is no error."""
        self._slowest = self.slowest
        self._clocks.pop(worker, None)
        self._slowest = self.slowest

    def tick(self, worker: str) -> None:
        """The worker, a member, has finished a step."""
        self._clocks[worker] += 1

    def may_begin(self, worker: str) -> bool:
        """Whether the worker, a member, may begin its next step."""
        return self.staleness is None or self._clocks[worker] - self.slowest <= self.staleness
