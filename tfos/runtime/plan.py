"""What every supervisor of an attempt is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfos.lake.run_directory import RunDirectory
from tfos.runtime.registry import RegistryAddress
from tfos.spec.job import JobSpec


@dataclass(frozen=True)
class AttemptPlan:
    """What every supervisor of an attempt is told. Picklable.

    marker: a file in the run directory that every executor must see.
    driver: what the node of the driver holds that began the attempt.
    """

    spec: JobSpec
    run_id: str
    attempt: int
    lake: RunDirectory
    registry: RegistryAddress
    marker: str
    driver: Mapping[str, Any]
