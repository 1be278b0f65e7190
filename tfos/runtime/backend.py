"""Backend: what a strategy does in the processes of its roles. The other half is its Topology."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfos.fault.failures import FailureKind
from tfos.runtime.host import Host

# a node of ZooKeeper holds 1 MiB
_METRICS_BYTES = 900_000


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

    def plain_metrics(self) -> dict[str, Any]:
        """The metrics as the result has them. Raises ValueError, TypeError for what no JSON is."""
        try:
            text = json.dumps(self.metrics, default=_plain)
        except Exception as error:  # also of a framework, that its tensor is none that can be had
            raise TypeError(f"train() must return JSON-able values: {error}") from error
        if len(text) > _METRICS_BYTES:
            raise ValueError(
                f"train() returned {len(text):,} bytes of metrics, more than {_METRICS_BYTES:,}:"
                " write large results to the lake, into ctx.output_dir"
            )
        return dict(json.loads(text))


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


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays, and those of frameworks, as Python's."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) is not JSON-able")
