"""Executors of a size of their own for a role, and the options that ask for them. Pure.

Three options of a role: ps_memory, ps_cores, ps_gpus. Whatever has fields of such names, made by
memory_of(), cores_of() and gpus_of(), says what the executors of that role's tasks are to have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tfos.errors import UsageError
from tfos.spec.options import option, spellings

# an executor of one role has a JVM that only waits, and all else is for Python and TensorFlow.
# Measured, see docs/PROFILE.md: the fork server once an executor; for each task a Python worker of
# Spark and the role's process, before any model
JVM_MB, SERVER_MB, TASK_MB = 512, 240, 340
_LEAST_MB = JVM_MB + SERVER_MB + TASK_MB
_UNITS = {"": 1 / 2**20, "b": 1 / 2**20, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 2.0**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """What the executor of one task has; 0: as Spark's conf says for all executors.

    memory_mb: MiB of its container: the JVM, Python and TensorFlow.
    gpus: given to the task, and none without.
    """

    memory_mb: int = 0
    cores: int = 0
    gpus: int = 0

    def __bool__(self) -> bool:
        return self != Size()

    def __str__(self) -> str:
        memory = f"{self.memory_mb} MiB" if self.memory_mb % 1024 else f"{self.memory_mb >> 10} GiB"
        parts = [memory] if self.memory_mb else []
        parts += [f"{self.cores} core{'s' * (self.cores > 1)}"] if self.cores else []
        parts += [f"{self.gpus} GPU{'s' * (self.gpus > 1)}"] if self.gpus else []
        return ", ".join(parts) or "as the other executors"


# of an executor whose role has no options, or none that are given
AS_OTHERS = Size()


def megabytes(text: str, unit: str = "") -> float | None:
    """A size as Spark writes it: "512m", "2g". unit: of a bare number. None for what is none."""
    match = _SIZE.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _UNITS[(match[2] or unit).lower()]


def memory_of(role: str) -> Any:
    return option(
        "",
        f"memory of the executor of each {role}, in all, such as 8g; default: as others",
        "SIZE",
    )


def cores_of(role: str) -> Any:
    return option(0, f"cores of the executor of each {role}; 0: as others", "N")


def gpus_of(role: str) -> Any:
    return option(0, f"GPUs of the executor of each {role}; 0: as others", "N")


def size_among(options: object, role: str) -> Size:
    """What the options of `role` that are fields of `options` say. Raises UsageError."""
    counts = {}
    for what in ("cores", "gpus"):
        name = f"{role}_{what}"
        counts[what] = getattr(options, name, 0)
        if counts[what] < 0:
            raise UsageError(f"{spellings(name)} is {counts[what]}: use 0 or more")
    return Size(_memory_mb(options, f"{role}_memory"), **counts)


def _memory_mb(options: object, name: str) -> int:
    text = getattr(options, name, "")
    if not text:
        return 0
    found = None if text.strip().isdigit() else megabytes(text)
    if found is None:
        raise UsageError(f"{spellings(name)} is {text!r}: write a number and its unit, such as 8g")
    if found < _LEAST_MB:
        raise UsageError(
            f"{spellings(name)} is {text}, and Python and TensorFlow with a small JVM take"
            f" {_LEAST_MB} MiB before there is a model: use {_LEAST_MB}m or more"
        )
    return int(found)
