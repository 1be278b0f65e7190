"""How many steps a unit of work has. Pure: it is told the time.

A unit costs the chief some time, for metrics and callbacks; what waits for the units under way, a
checkpoint or the end of an epoch, waits for as long as they take. So units are to take a quarter of
a second, or twice as long as the chief needs for one unit of each worker, and have fewer steps
towards the end of an epoch, so that workers are done together (guided self-scheduling,
Polychronopoulos and Kuck 1987).
"""

from __future__ import annotations

_FIRST_STEPS = 4
_UNIT_SECS = 0.25
# of the chief for each unit, at least: to hand it out, and to fetch its result
_CHIEF_SECS = 0.005
_ROOM = 2
_MEASURED_SECS = 0.1
# units are made so much longer at a time, as the first are measured badly
_GROWTH = 4
# units that each worker is to have in what is left, and a limit for how short that makes them
_UNITS_LEFT = 2
_SHRINKING = 8


class Pace:
    """The size of the units of one program.

    workers: how many make units at a time. overlaps: whether they do so while the chief is at work.
    steps: what the user has asked for; None when tfos is to choose.
    """

    def __init__(self, workers: int, overlaps: bool, steps: int | None = None) -> None:
        self._workers, self._overlaps = workers, overlaps
        self._fixed = steps
        self._steps = float(_FIRST_STEPS)
        self.begin()

    def begin(self) -> None:
        """Nothing is under way: what comes next has nothing to do with the time until then."""
        self._units = self._done = 0
        self._since = self._own = 0.0

    def next(self, left: int) -> int:
        """Steps of the next unit, of `left` > 0 that are left of the epoch."""
        if self._fixed is not None:
            return min(self._fixed, left)
        fair = -(-left // (_UNITS_LEFT * self._workers)) if self._workers > 1 else left
        return max(1, min(left, int(self._steps), max(fair, int(self._steps / _SHRINKING))))

    def done(self, steps: int, now: float, own_secs: float) -> None:
        """A unit of so many steps is done, and what the chief has to do for it.

        now: seconds of a clock that runs evenly. own_secs: the chief's, until now.
        """
        self._units += 1
        if self._units <= self._workers:  # one of each: from here on the time is that of the next
            self._since = now
            return
        self._done += steps
        self._own += own_secs
        secs = now - self._since - (0.0 if self._overlaps else self._own)
        # two of each at least: those of several workers may be done at the same moments
        if self._units > 3 * self._workers and secs > _MEASURED_SECS:
            own = _CHIEF_SECS + self._own / (self._units - self._workers)
            unit_secs = max(_UNIT_SECS, _ROOM * own * self._workers)
            wanted = self._done / secs / self._workers * unit_secs
            self._steps = max(1.0, min(wanted, self._steps * _GROWTH))
            self._units, self._done, self._since, self._own = self._workers, 0, now, 0.0
