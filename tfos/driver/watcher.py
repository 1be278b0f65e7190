"""What ZooKeeper holds of the attempt, kept in memory by watches."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfos.runtime import keys
from tfos.runtime.nodes import AttemptNodes
from tfos.runtime.registry import Registry
from tfos.runtime.watches import Watch
from tfos.spec.roles import Task

# between two readings of everything: with a ZooKeeper that is gone no watch tells anything
_REFRESH_SECS = 10.0


class AttemptWatcher:
    """Follows the members, what is ready, failures, progress and outcome of one attempt.

    changed: called after each change, on kazoo's threads, so that it must not block; progressed: so
    with the chief's progress, each time that there is another.
    All methods are for one thread, and raise RegistryError.
    """

    def __init__(
        self,
        registry: Registry,
        run_id: str,
        number: int,
        tasks: Iterable[Task],
        changed: Callable[[], None],
        progressed: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._registry = registry
        self._run_id, self._number = run_id, number
        self._names = [str(task) for task in tasks]
        self._changed, self._progressed = changed, progressed
        self._lock = threading.Lock()
        self._members: dict[str, Mapping[str, Any]] = {}
        self._ready: dict[str, int] = {}
        self._failed: list[str] = []
        self._failures: dict[str, Mapping[str, Any]] = {}
        self._progress: Mapping[str, Any] | None = None
        self._outcome: Mapping[str, Any] | None = None
        self._watches: list[Watch] = []
        self._refreshed = time.monotonic()

    def begin(self) -> None:
        run_id, number = self._run_id, self._number
        members, ready = keys.members(run_id, number), keys.ready(run_id, number)
        told: dict[str, Callable[[Any], None]] = {
            keys.outcome(run_id, number): self._tell_outcome,
            keys.progress(run_id, number): self._tell_progress,
        }
        for name in self._names:
            told[f"{members}/{name}"] = functools.partial(self._tell, self._members, name)
            told[f"{ready}/{name}"] = functools.partial(self._tell, self._ready, name)
        self._watches = self._registry.watch_all(told)
        failures = keys.failures(run_id, number)
        self._watches.append(self._registry.watch_children(failures, self._tell_failures))

    def end(self) -> None:
        """Ends the watches; asks nobody."""
        for watch in self._watches:
            watch.stop()

    def look(self) -> AttemptNodes:
        """What there is, as it was told last.

        Asks the registry only for failures that have come, and for everything every ten seconds.
        """
        if time.monotonic() > self._refreshed + _REFRESH_SECS:
            self.refresh()
        with self._lock:
            new = [name for name in self._failed if name not in self._failures]
        path = keys.failures(self._run_id, self._number)
        for name in new:
            failure = self._registry.get(f"{path}/{name}")
            if failure is not None:
                self._failures[name] = failure
        with self._lock:
            return AttemptNodes(
                members=dict(self._members),
                ready=dict(self._ready),
                failures=dict(self._failures),
                progress=self._progress,
                outcome=self._outcome,
            )

    def refresh(self) -> None:
        """What is looked at afterwards is no older than this call."""
        self._registry.refresh(self._watches)
        self._refreshed = time.monotonic()

    def _tell(self, values: dict[str, Any], name: str, value: Any) -> None:
        with self._lock:
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
        self._changed()

    def _tell_failures(self, names: list[str]) -> None:
        with self._lock:
            self._failed = names
        self._changed()

    def _tell_progress(self, progress: Mapping[str, Any] | None) -> None:
        if progress is not None:
            self._progress = progress
            self._progressed(progress)
        self._changed()

    def _tell_outcome(self, outcome: Mapping[str, Any] | None) -> None:
        self._outcome = outcome
        self._changed()
