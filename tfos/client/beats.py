"""A driver that cannot be reached, seen by its lease in the lake.

Its ZooKeeper may be behind a firewall, or in a network of pods, while the lake is everybody's. So
what it writes there tells that it lives, and what it is asked there it does.
"""

from __future__ import annotations

import time
from typing import Any

from tfos.driver.lease import is_dead
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.spec.times import TIMES

_LOOK_EVERY_SECS = 0.5


def living(lake: RunDirectory) -> DriverLease | None:
    """The lease of the driver that lives, None where none does.

    Blocks for one beat of a driver, and where it has left a lease without beats for two.
    """
    first, begun = lake.lease(), time.monotonic()
    if first is None or is_dead(first):
        return None
    while time.monotonic() - begun < TIMES.lease_watch_secs:
        time.sleep(_LOOK_EVERY_SECS)
        seen = lake.lease()
        if seen is None or seen != first:
            return seen
    return None


def ask_to_end(lake: RunDirectory, by: str, secs: float) -> dict[str, Any] | None:
    """Asks a living driver to end its run, and blocks until it has, for `secs` at most.

    Returns its result; None where it left none, or has not ended.
    """
    lake.write_cancel_request({"by": by})
    until = time.monotonic() + secs
    while (result := lake.result()) is None and time.monotonic() < until:
        if lake.lease() is None:  # removed when the run is over, after the result was written
            return lake.result()
        time.sleep(_LOOK_EVERY_SECS)
    return result
