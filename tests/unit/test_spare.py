"""Whether there is memory for a spare process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfos.runtime import spare
from tfos.runtime.spare import free_memory, wants_spare

GIB = 1 << 30
MEMINFO = "/proc/meminfo"
LIMIT, USED = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
STAT = "/sys/fs/cgroup/memory.stat"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets what the kernel says; a file that is not named is not there."""

    def set_up(files):
        def path(name):
            file = tmp_path / name.strip("/").replace("/", "-")
            if name in files:
                file.write_text(files[name])
            return file

        monkeypatch.setattr(spare, "Path", path)

    return set_up


def meminfo(available):
    return (
        f"MemTotal:       {64 << 20} kB\nMemFree:        {1 << 20} kB\n"
        f"MemAvailable:   {available >> 10} kB\nHugePages_Total:       0\n"
    )


class TestFreeMemory:
    @pytest.mark.parametrize(
        "cgroup",
        [
            {},
            {LIMIT: "max\n", USED: f"{50 * GIB}\n"},
            {LIMIT: f"{40 * GIB}\n"},
            {LIMIT: f"{40 * GIB}\n", USED: f"{2 * GIB}\n", STAT: "inactive_file 0\n"},
        ],
        ids=["no cgroup", "no limit", "no current", "a limit that is far"],
    )
    def test_of_the_machine(self, machine, cgroup):
        machine({MEMINFO: meminfo(8 * GIB), **cgroup})
        assert free_memory() == 8 * GIB

    def test_of_the_cgroup_if_that_has_less(self, machine):
        stat = f"anon 1\ninactive_file {GIB // 2}\nactive_file 7\n"
        files = {LIMIT: f"{4 * GIB}\n", USED: f"{3 * GIB}\n", STAT: stat}
        machine({MEMINFO: meminfo(8 * GIB), **files})
        assert free_memory() == GIB + GIB // 2  # what is only cached can be had

    @pytest.mark.parametrize("files", [{}, {MEMINFO: "MemTotal: 5 kB\n"}, {MEMINFO: "new words\n"}])
    def test_unknown_is_none(self, machine, files):
        machine({**files, LIMIT: f"{4 * GIB}\n", USED: "0\n"})
        assert free_memory() == 0

    @pytest.mark.skipif(not Path(MEMINFO).exists(), reason="not Linux")
    def test_of_this_machine(self):
        assert 0 < free_memory() < 1 << 50


class TestWantsSpare:
    @pytest.mark.parametrize(
        ("option", "free", "wanted"),
        [
            ("on", 0, True),
            ("off", 64 * GIB, False),
            ("auto", 5 * GIB, True),
            ("auto", 3 * GIB, False),
            ("auto", 0, False),
        ],
    )
    def test_as_asked_or_where_memory_allows(self, monkeypatch, option, free, wanted):
        monkeypatch.delenv("CONTAINER_ID", raising=False)
        monkeypatch.setattr(spare, "free_memory", lambda: free)
        assert wants_spare(option) is wanted

    @pytest.mark.parametrize(("option", "wanted"), [("on", True), ("auto", False), ("off", False)])
    def test_not_by_itself_in_a_container_of_yarn(self, monkeypatch, option, wanted):
        monkeypatch.setenv("CONTAINER_ID", "container_1_0001_01_000002")
        monkeypatch.setattr(spare, "free_memory", lambda: 64 * GIB)
        assert wants_spare(option) is wanted
