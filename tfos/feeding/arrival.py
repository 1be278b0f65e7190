"""A feed that may still be written while it is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from tfos.feeding.schema import Manifest

# between two looks at what has arrived
ARRIVAL_SECS = 0.5


class Arrival:
    """What has arrived of a feed, for all datasets of it in a process. Not thread-safe.

    manifest: what had arrived at the last look; complete, of a feed that was written before.
    look: gives what has arrived by now, which begins with what had before.
    quiet: made around a wait, which has nothing to report.
    """

    def __init__(
        self,
        manifest: Manifest,
        look: Callable[[], Manifest] | None = None,
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.manifest = manifest
        self._look, self._quiet = look, quiet

    def look(self) -> Manifest:
        """What has arrived by now. Does not wait. Raises LakeError when the lake cannot be read."""
        if not self.manifest.complete and self._look is not None:
            self.manifest = self._look()
        return self.manifest

    def wait_complete(self) -> Manifest:
        """Blocks until all has arrived, for as long as the ETL takes."""
        if not self.look().complete:
            with self._quiet():
                while not self.look().complete:
                    time.sleep(ARRIVAL_SECS)
        return self.manifest
