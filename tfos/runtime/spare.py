"""Whether there is memory for a spare: a second TF process of a role, ready to take over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FREE_BYTES = 4 << 30


def wants_spare(option: str) -> bool:
    """Whether to keep a spare process: as --spare says, or where memory allows.

    Not by itself in a container of YARN (it sets CONTAINER_ID): its memory limit counts every
    process, is in no cgroup, and is enforced by killing all of them.
    """
    allows = "CONTAINER_ID" not in os.environ and free_memory() > _FREE_BYTES
    return option == "on" or (option == "auto" and allows)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its cgroup if that has less.

    Read where Linux keeps them (proc(5), and cgroup-v2.rst of the kernel's documentation); 0 where
    it does not.
    """
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError, KeyError):  # no limit, or none of this kind
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in lines)["inactive_file"])
        free = min(free, limit - used + cached)
    return free
