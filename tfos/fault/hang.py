"""When a process hangs: no sign of life, or no progress of the training. Pure.

A process that is stopped, or holds Python's lock for ever, falls silent. One that is deadlocked
in user code still gives signs of life, but the training makes no progress; then nobody knows which
process is to blame. Silence is noticed in half the time, so that the silent process is found before
those that wait for it; in three quarters where train() runs, as a chief falls silent, too, when
TensorFlow waits for a silent worker with Python's lock held (to register a function, for one).

Processes that begin in step wait for each other in the same way, also where all are well and it is
the network that keeps them apart. Until they have met none of them can be told from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HangWatch:
    """Watches one process. Times are seconds of one monotonic clock.

    hang_secs: 0 never finds anything. trains: whether progress is expected of the process.
    """

    def __init__(self, hang_secs: float, trains: bool, now: float) -> None:
        self._hang_secs = hang_secs
        self._trains = trains
        self._seen = now
        self._moved = now
        self._quiet = False
        self._met = True
        self._progress: Mapping[str, Any] = {}

    def alive(self, now: float) -> None:
        """A sign of life; that alone is no progress."""
        self._seen = now

    def moved(self, now: float, progress: Mapping[str, Any] | None = None) -> None:
        """Something went on. progress: what was said of it, if anything was."""
        self._seen = self._moved = now
        self._progress = progress or self._progress

    def quiet(self, begins: bool, now: float) -> None:
        """The begin, or the end, of what may take long with nothing to report.

        An evaluation, a checkpoint, an export.
        """
        self._quiet = begins
        self.moved(now)

    def meets(self, begins: bool, now: float) -> None:
        """The begin, or the end, of waiting for the other processes to be reached."""
        self._met = not begins
        self.moved(now)

    @property
    def has_met(self) -> bool:
        """Whether it is beyond that; else it does not matter what it is waited for."""
        return self._met

    def verdict(self, now: float) -> str | None:
        """Why the process is taken for hung, or None."""
        if not self._hang_secs:
            return None
        if not self._met:
            if now - self._moved <= self._hang_secs:
                return None
            return (
                f"it could not meet the other processes for {self._hang_secs:g} s (--hang-secs):"
                " see to the network between their machines"
            )
        words, share = ("three quarters", 0.75) if self._trains else ("half", 0.5)
        if now - self._seen > share * self._hang_secs:
            return (
                f"it gave no sign of life for {share * self._hang_secs:g} s"
                f" ({words} of --hang-secs {self._hang_secs:g})"
            )
        if self._trains and not self._quiet and now - self._moved > self._hang_secs:
            phase = self._progress.get("phase", "nothing yet")
            where = f" epoch {self._progress['epoch']}" if self._progress.get("epoch") else ""
            return (
                f"it made no progress for {self._hang_secs:g} s (--hang-secs; in a loop of your own"
                f" ctx.report() counts as progress); it reported last: {phase}{where}"
            )
        return None
