"""What is done first when the driver has got SIGTERM: who sent it gives it a while."""

from __future__ import annotations

import contextlib
import time

from tfos.errors import LakeError, RegistryError
from tfos.runtime import keys
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import Registry

# Kubernetes gives 30 s, and the end itself takes some of them
_SAVE_SECS = 15.0
_LOOK_SECS = 0.1


def save_first(plan: AttemptPlan, registry: Registry) -> bool:
    """Has the chief of an attempt that trains save a checkpoint, and waits for it; 15 s at most.

    Returns whether there is one.
    """
    with contextlib.suppress(RegistryError, LakeError):
        if not registry.connected_secs():
            return False
        newest = plan.lake.newest_checkpoint()
        registry.put(f"{keys.preempted(plan.run_id, plan.attempt)}/driver", True)
        deadline = time.monotonic() + _SAVE_SECS
        while time.monotonic() < deadline:
            if plan.lake.newest_checkpoint() != newest:
                return True
            time.sleep(_LOOK_SECS)
    return False
