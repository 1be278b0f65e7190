"""What every supervisor of an attempt is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfos.lake.run_directory import RunDirectory
from tfos.runtime.forking import ForkServer
from tfos.runtime.registry import RegistryAddress
from tfos.spec.job import JobSpec


@dataclass(frozen=True)
class AttemptPlan:
    """What every supervisor of an attempt is told. Picklable.

    marker: a file in the run directory that every executor must see.
    driver: what the node of the driver holds that began the attempt.
    preload: modules that the processes which train import before they have anything to do.
    server: what they are forked from; None where they are to be started.
    versions: of the driver, see tfos.runtime.probe.
    """

    spec: JobSpec
    run_id: str
    attempt: int
    lake: RunDirectory
    registry: RegistryAddress
    marker: str
    driver: Mapping[str, Any]
    preload: tuple[str, ...] = ()
    server: ForkServer | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
