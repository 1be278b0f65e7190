"""Ends for memory: what files of Linux say of them, and a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tfos.runtime.memory_kills import MemoryKills

V1 = Path("/sys/fs/cgroup/memory")
HUNGRY = "import sys; sys.stdin.readline(); hoard = [b'x' * (1 << 20) for _ in range(400)]"


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture
def linux(tmp_path):
    """Makes MemoryKills of a process whose /proc/self/cgroup is `lines`."""

    def make(lines):
        (tmp_path / "cgroup").write_text(lines)
        return MemoryKills(tmp_path / "cgroup", tmp_path / "sys")

    return make


EVENTS = "low 0\nhigh 0\nmax 11\noom 1\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize(
    ("lines", "place", "count", "limit"),
    [
        ("0::/a/b\n", "a/b", ("memory_events", EVENTS), "memory_max"),
        # a container with a namespace of its own, and one that is told the machine's path
        ("0::/\n", "", ("memory_events", EVENTS), "memory_max"),
        ("0::/kubepods/p\n", "", ("memory_events", EVENTS), "memory_max"),
        ("9:pids:/c\n4:memory:/c\n0::/c\n", "memory/c", ("memory_oom_control", CONTROL),
         "memory_limit_in_bytes"),
        ("4:memory:/docker/x\n", "memory", ("memory_oom_control", CONTROL),
         "memory_limit_in_bytes"),
    ],
)  # fmt: skip
def test_counts_that_grow_are_an_end_for_memory(linux, tmp_path, lines, place, count, limit):
    folder, (name, text) = tmp_path / "sys" / place, count
    write(folder, **{name: text.format(2), limit: str(3 << 29)})
    kills = linux(lines)
    assert kills.explain(-signal.SIGKILL) is None
    write(folder, **{name: text.format(3)})
    why = kills.explain(-signal.SIGKILL)
    assert "its container, which is 1.50 GiB: give" in why
    assert "memoryOverhead" in why
    assert kills.explain(-signal.SIGKILL) is None  # of the next one nothing is known
    for number, status in enumerate((-signal.SIGSEGV, 1, 0)):
        write(folder, **{name: text.format(4 + number)})
        assert kills.explain(status) is None


@pytest.mark.parametrize(("limit", "name"), [("max", "max"), (str((1 << 63) - 4096), "max")])
def test_of_a_group_without_a_limit_it_is_the_machines(linux, tmp_path, limit, name):
    write(tmp_path / "sys", memory_events=EVENTS.format(0), memory_max=limit)
    kills = linux("0::/\n")
    write(tmp_path / "sys", memory_events=EVENTS.format(1))
    assert "the machine, which limits it no further" in kills.explain(-signal.SIGKILL)


@pytest.mark.parametrize("lines", ["", "4:pids:/a\n", "0::/a\n"])
def test_where_nothing_counts_nothing_is_said(linux, lines):
    assert linux(lines).explain(-signal.SIGKILL) is None


@pytest.mark.skipif(
    os.geteuid() != 0 or not (V1 / "memory.oom_control").exists(),
    reason="only root can make a group, and this test makes one of version 1",
)
def test_a_process_that_is_over_the_memory_of_its_group(tmp_path):
    group = V1 / f"tfos-tests-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        (tmp_path / "cgroup").write_text(f"4:memory:/{group.name}\n")
        kills = MemoryKills(tmp_path / "cgroup")
        hungry = subprocess.Popen([sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE)
        (group / "cgroup.procs").write_text(str(hungry.pid))
        hungry.communicate(b"go\n", timeout=60)
        assert hungry.returncode == -signal.SIGKILL
        assert "which is 0.06 GiB" in kills.explain(hungry.returncode)
    finally:
        group.rmdir()
