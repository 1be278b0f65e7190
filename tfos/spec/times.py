"""How long tfos waits for what may come back: one object, which tests shrink.

The values suit clusters. TFOS_TIMES, a JSON object by field, sets others for a process and all
that it starts: {"lake_retry_secs": 2}.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

ENV = "TFOS_TIMES"


@dataclass
class Times:
    """All in seconds. Read at each use, so that a test may set a field of TIMES.

    lake_retry_secs: how long one operation of the lake is tried, all in all; a client library may
        retry too, inside of one try.
    session_secs: of a process that has died ZooKeeper's nodes stay for so long.
    settled_secs: after an outage of ZooKeeper the members of a run find their way back one after
        the other; until then nobody's absence means anything.
    outage_secs: how long a run goes on without a ZooKeeper that answers.
    missing_secs: how long a member may be missing before it counts as gone: one whose session
        expired, because ZooKeeper was away, registers again.
    pause_secs: before a process that could not reach another one twice is tried again; twice as
        long before each next time.
    driver_grace_secs: how long supervisors wait for a driver that is gone.
    lease_secs: the driver writes so often into the lake that it lives; a put each time.
    lease_ending_secs: how long a driver that is still there when its submission is repeated has to
        end: of a pod that is to go Kubernetes starts the next one at once, and leaves it 30 s.
    lease_watch_secs: how long a driver that resumes a run looks whether another one writes; longer
        than lease_secs by what a slow write may take.
    """

    lake_retry_secs: float = 30.0
    session_secs: float = 10.0
    settled_secs: float = 30.0
    outage_secs: float = 300.0
    missing_secs: float = 10.0
    pause_secs: float = 5.0
    driver_grace_secs: float = 10.0
    lease_secs: float = 5.0
    lease_watch_secs: float = 8.0
    lease_ending_secs: float = 40.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Times:
        """Raises ValueError for what is no JSON object of these fields."""
        given = json.loads(environment.get(ENV) or "{}")
        unknown = sorted(set(given) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"{ENV} has {unknown}: see tfos.spec.times for what there is")
        return cls(**{name: float(secs) for name, secs in given.items()})


TIMES = Times.of(os.environ)
