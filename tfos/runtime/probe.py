"""Whether roles can run on an executor: looked at from a Spark task there.

Before the start on the executors that there are, and by each supervisor, as others come later.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from tfos.lake.run_directory import RunDirectory
from tfos.runtime.limits import read_limits, what_is_too_low


@dataclass(frozen=True)
class Seen:
    """What an executor's host is like.

    sees_marker: whether it sees what the driver wrote. user: whom its files belong to.
    cannot_write: why it cannot write beside that; "" where it can, or does not see it.
    """

    host: str
    sees_marker: bool
    versions: Mapping[str, str]
    limits: Mapping[str, int]
    user: str
    cannot_write: str


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
    sees_marker = lake.exists(marker)
    cannot_write = lake.why_not_writable() if sees_marker else ""
    return Seen(socket.gethostname(), sees_marker, versions(), read_limits(), _user(), cannot_write)


def _user() -> str:
    return f"uid {os.getuid()}"


def problem(seen: Seen, lake: RunDirectory, marker: str, drivers: Mapping[str, str]) -> str | None:
    """Why no role can run there, and what to change; None where it can.

    drivers: versions() of the driver.
    """
    if not seen.sees_marker:
        return (
            f"executor host {seen.host} does not see {lake.uri(marker)}, which the driver wrote:"
            " name a lake that all machines share with --lake"
        )
    if seen.cannot_write:
        return (
            f"executor host {seen.host} sees {lake.uri('')}, but {seen.user}, which it has, may not"
            f" write there, and the driver has {_user()}: {seen.cannot_write}; run both as the same"
            " user, or give both the right to write (of a pod: securityContext)"
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
