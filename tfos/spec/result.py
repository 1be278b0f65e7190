"""Result: what came of a run, the same keys whatever the end."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# pl_submit names a file here, to have the result even of a run that never had a lake
RESULT_FILE_ENV = "TFOS_RESULT_FILE"
# beside it the driver says which run it is at: {"url", "run_id"}, of its run directory
RUN_FILE = "run.json"


# the message of a run that was ended by a signal to its driver
INTERRUPTED = "interrupted"
# and of one whose driver was left without its JVM: nobody can tell more
JVM_GONE = "the driver's JVM has ended: it was killed, or its memory was too small"
# what pl_submit says of one that was killed, and could say nothing
DRIVER_KILLED = "the driver was killed by SIGKILL: by somebody, or as its memory was too small"


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """The content of result.json, by attribute or by key: result.metrics, result["metrics"].

    run_id: None where the run ended before it had one.
    status: "succeeded" or "failed".
    error: the root cause: {"role", "index", "host", "message", "traceback"}; None of a success.
    attempts: how often the roles were launched. restarts: of processes, by role.
    feeds: by name: {"rows", "shards", "rows_trained", "rows_repeated", "rows_missed", "rows_read"},
    the last four a number for each epoch: what fit() and run_epoch() trained on, and what loops
    over a dataset were given.
    failures: all that failed meanwhile, the first one first.
    roles: by task, "worker-0": {"restarts", "host", "pid"}, of its last process.
    checkpoints: {"saved", "step", "stall_secs", "save_secs"}; empty when none was tried.
    metrics: what train() returned and reported. evaluations: what the evaluator found.
    model: the URI of the exported model. seconds: {"etl", "start", "train", "total"}.
    """

    run_id: str | None
    status: Literal["succeeded", "failed"]
    error: Mapping[str, Any] | None = None
    attempts: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)
    feeds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: Sequence[Mapping[str, Any]] = ()
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoints: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    model: str | None = None
    seconds: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(("etl", "start", "train", "total"), 0.0)
    )

    @classmethod
    def not_started(cls, error: Mapping[str, Any], run_id: str | None = None) -> Result:
        """Of a run that failed before there was anything to tell."""
        return cls(run_id, "failed", error)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Result:
        """Of another version it may have keys that are unknown here, or lack some."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in names})

    @property
    def is_definite(self) -> bool:
        """Whether the run was brought to this end, and its driver not just ended from outside."""
        return self.error is None or self.error["message"] not in (INTERRUPTED, JVM_GONE)

    def as_json(self) -> dict[str, Any]:
        """As plain dicts and lists; null for each number that JSON has no word for."""
        return {name: finite(self[name]) for name in self}

    def failed(self, error: Mapping[str, Any]) -> Result:
        """The same run, failed after all."""
        return dataclasses.replace(self, status="failed", error=error)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__dataclass_fields__:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)


def sum_stats(lives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What saving checkpoints took in all lives of the chief; empty when none got that far.

    lives: Checkpointer.stats at the end of each.
    """
    if not lives:
        return {}
    took = {key: round(sum(s.get(key, 0) for s in lives), 3) for key in ("stall_secs", "save_secs")}
    return {
        "saved": sum(s.get("saved", 0) for s in lives),
        "step": max(s.get("step", 0) for s in lives),
        **took,
    }


def finite(value: Any) -> Any:
    """`value` with null for each number that JSON has no word for: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_result_file(result: Result) -> None:
    """Leaves the result where pl_submit asked for it, if it did."""
    path = os.environ.get(RESULT_FILE_ENV)
    if path:
        with open(path, "w") as file:
            json.dump(result.as_json(), file)


def tell_run(url: str, run_id: str) -> None:
    """Says where pl_submit, if it is there, finds the directory of the run that now is ours.

    url: of the lake.
    """
    path = os.environ.get(RESULT_FILE_ENV)
    if path:
        part = f"{path}.part"
        with open(part, "w") as file:
            json.dump({"url": url, "run_id": run_id}, file)
        os.replace(part, os.path.join(os.path.dirname(path), RUN_FILE))
