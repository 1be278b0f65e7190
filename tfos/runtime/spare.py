"""Whether there is memory for a spare: a second TF process of a role, ready to take over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_FREE_BYTES = 4 << 30
_V2, _V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
# v1 is seldom mounted elsewhere; with both, v2's is /sys/fs/cgroup/unified and has no memory.
# Of each: limit, what is taken, and what of that are files that can be read again. v1 has a number
# for no limit that is larger than any memory.
_FILES = {
    _V2: ("memory.max", "memory.current", "inactive_file"),
    _V1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def wants_spare(option: str) -> bool:
    """Whether to keep a spare process: as --spare says, or where memory allows.

    Not by itself in a container of YARN (it sets CONTAINER_ID): its memory limit counts every
    process, is in no cgroup, and is enforced by killing all of them.
    """
    allows = "CONTAINER_ID" not in os.environ and free_memory() > _FREE_BYTES
    return option == "on" or (option == "auto" and allows)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine, and of its cgroups if one has less.

    Read where Linux keeps them (proc(5), cgroups(7), and cgroup-v2.rst and cgroup-v1/memory.rst of
    the kernel's documentation), below `root`; 0 where it does not.
    """
    try:
        meminfo = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    return min([free, *(left for each in _cgroups(root) if (left := _left(*each)) is not None)])


def _cgroups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folder of this process's memory cgroup, and of each above it, with what to read there.

    A limit of any of them holds. In a container the path may be the host's, of which the container
    sees nothing, or the end; then the folder that is there is the last one, the mounted root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {mount: path for line in lines for mount, path in [_mount(*line.split(":", 2))]}
    for mount, names in _FILES.items():
        path = PurePosixPath(paths.get(mount, "/"))
        for part in (path, *path.parents):
            yield root / mount / part.relative_to("/"), names


def _mount(number: str, controllers: str, path: str) -> tuple[str, str]:
    """Where the cgroup of a line of /proc/self/cgroup is mounted ("" for another), and its path."""
    if number == "0":
        return _V2, path
    return _V1 if "memory" in controllers.split(",") else "", path


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    """Bytes below a cgroup's limit, with what is only cached; None where there is no limit."""
    limit, used, cached = names
    try:
        most, taken = (int((folder / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - taken + int(stat[cached])
    except (OSError, ValueError, KeyError):  # "max", or no such cgroup
        return None
