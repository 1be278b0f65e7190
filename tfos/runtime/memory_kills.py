"""Whether the kernel has ended processes for their container's memory, which none of them can tell.

A process that is over the memory of its control group gets SIGKILL, as from anybody. The kernel
counts those (`oom_kill`, of the group that the process belonged to): in memory.events under version
2 of cgroups, in memory.oom_control under version 1. See the kernel's admin-guide, cgroup-v2 and
cgroup-v1/memory.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
# what version 1 says where there is no limit is the largest number of pages
_UNLIMITED = 1 << 60


class MemoryKills:
    """Of the control group of this process, from now on.

    membership, root: where Linux tells of it; others in tests.
    """

    def __init__(
        self, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._membership, self._root = membership, root
        self._before = self._count()

    def explain(self, status: int) -> str | None:
        """What happened to a process of this group that has ended with `status`, if it was that.

        To be asked once for each that ends: what was counted before explains no later end.
        """
        before, self._before = self._before, self._count()
        if status != -signal.SIGKILL or (self._before or 0) <= (before or 0):
            return None
        limit = self._limit()
        if limit is None:
            return (
                "its process was ended by the kernel as the machine, which limits it no further,"
                " was out of memory: run less beside it, or make the model or the batches smaller"
            )
        return (
            "its process was ended by the kernel for the memory of its container, which is"
            f" {limit / 2**30:.2f} GiB: give the executors more, with"
            " --conf spark.executor.memoryOverhead=SIZE or the role's --ROLE-memory, or make the"
            " model or the batches smaller"
        )

    def _count(self) -> int | None:
        found = _COUNT.search(self._read("memory.events", "memory.oom_control"))
        return int(found[1]) if found else None

    def _limit(self) -> int | None:
        text = self._read("memory.max", "memory.limit_in_bytes").strip()
        return int(text) if text.isdigit() and int(text) < _UNLIMITED else None

    def _read(self, new: str, old: str) -> str:
        """A file of the group: `new` under version 2, `old` under version 1. "" for none."""
        for place, name in self._places(new, old):
            try:
                return (place / name).read_text()
            except OSError:
                continue
        return ""

    def _places(self, new: str, old: str) -> list[tuple[Path, str]]:
        try:
            lines = self._membership.read_text().splitlines()
        except OSError:
            return []
        places = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            base, name = (self._root / "memory", old) if controllers else (self._root, new)
            if not controllers or "memory" in controllers.split(","):
                # in a container the path may be the machine's, and the root is the container's own
                places += [(base / path.lstrip("/"), name), (base, name)]
        # version 1 first: where both are there, memory is of the one that has it
        return sorted(places, key=lambda place: place[1] != old)
