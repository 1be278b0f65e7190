"""Backend: what a strategy does in the processes of its roles. The other half is its Topology."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfos.fault.failures import FailureKind
from tfos.runtime.host import Host


@dataclass(frozen=True)
class Trained:
    """What is left to tell when train() has returned.

    metrics: JSON-able. model: the URI of what was exported, if anything was.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    @classmethod
    def of(cls, returned: Any, reported: Mapping[str, Any], model: str | None) -> Trained:
        """returned: by train(), a mapping of metrics or a value. reported: metrics before it."""
        if not isinstance(returned, Mapping):
            returned = {} if returned is None else {"returned": returned}
        return cls({**reported, **returned}, model)


class Backend(Protocol):
    """Made without arguments, once in each process. All is called in its main thread."""

    def preload(self, role: str) -> None:
        """Imports what is slow. Called at once, before there is anything to do."""

    def run(self, host: Host) -> Trained:
        """Does what the process is there for, from its start order to its end; blocks.

        In the chief, and in what else has to end before the run can, it returns. Elsewhere, in a
        server for one, it goes on until the process is ended.
        """

    def failure_kind(self, error: BaseException) -> FailureKind:
        """PEER for what another process's death has raised here, else EXCEPTION."""


def load(path: str) -> Backend:
    """The backend at "module:class"."""
    module, _, name = path.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    return backend
