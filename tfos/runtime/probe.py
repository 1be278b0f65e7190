"""Whether roles can run on an executor: looked at from a Spark task there.

Before the start on the executors that there are, and by each supervisor, as others come later.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from tfos.lake.run_directory import RunDirectory
from tfos.runtime.limits import read_limits, what_is_too_low


@dataclass(frozen=True)
class Seen:
    """What an executor's host is like. sees_marker: whether it sees what the driver wrote."""

    host: str
    sees_marker: bool
    versions: Mapping[str, str]
    limits: Mapping[str, int]


def versions() -> dict[str, str]:
    """Of what the driver and all executors must have alike."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("tensorflow", "tfos"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def look(lake: RunDirectory, marker: str) -> Seen:
    """Of the host that this is called on."""
    return Seen(socket.gethostname(), lake.exists(marker), versions(), read_limits())


def problem(seen: Seen, lake: RunDirectory, marker: str, drivers: Mapping[str, str]) -> str | None:
    """Why no role can run there, and what to change; None where it can.

    drivers: versions() of the driver.
    """
    if not seen.sees_marker:
        return (
            f"executor host {seen.host} does not see {lake.uri(marker)}, which the driver wrote:"
            " name a lake that all machines share with --lake"
        )
    for package, wanted in drivers.items():
        version = seen.versions.get(package)
        if version != wanted:
            return (
                f"executor host {seen.host} has {package} {version}, the driver has {wanted}: make"
                " them equal, e.g. with --conf spark.pyspark.python=PATH or --archives"
            )
    too_low = what_is_too_low(seen.limits)
    return f"executor host {seen.host} {too_low}" if too_low else None
