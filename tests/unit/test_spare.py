"""Whether there is memory for a spare process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfos.runtime import spare
from tfos.runtime.spare import free_memory, wants_spare

GIB = 1 << 30
V1_NO_LIMIT = 9223372036854771712


@pytest.fixture
def machine(tmp_path):
    """What the kernel says, as files below a folder; returns the folder."""

    def set_up(meminfo, cgroup=""):
        write(tmp_path / "proc/meminfo", meminfo)
        write(tmp_path / "proc/self/cgroup", cgroup)
        return tmp_path

    return set_up


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def meminfo(available):
    return (
        f"MemTotal:       {64 << 20} kB\nMemFree:        {1 << 20} kB\n"
        f"MemAvailable:   {available >> 10} kB\nHugePages_Total:       0\n"
    )


def v2(root, path, limit, used, cached=0):
    folder = root / "sys/fs/cgroup" / path
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 1\ninactive_file {cached}\nactive_file 7\n")


def v1(root, path, limit, used, cached=0):
    folder = root / "sys/fs/cgroup/memory" / path
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    write(folder / "memory.stat", f"inactive_file 5\ntotal_inactive_file {cached}\n")


# a service of systemd; a container that sees its own cgroup as the root; one that does not
OWN_V2 = "0::/system.slice/spark.service\n"
ROOT_V2 = "0::/\n"
OWN_V1 = "12:cpu,cpuacct:/a\n4:memory:/yarn/container_1\n1:name=systemd:/a\n0::/a\n"
HOSTS_V1 = "4:memory:/docker/0123\n"


class TestFreeMemory:
    def test_of_the_machine_without_cgroups(self, machine):
        root = machine(meminfo(8 * GIB), OWN_V1)
        assert free_memory(root) == 8 * GIB
        (root / "proc/self/cgroup").unlink()
        assert free_memory(root) == 8 * GIB

    @pytest.mark.parametrize(
        ("cgroup", "write", "path", "no_limit"),
        [
            (ROOT_V2, v2, "", "max"),
            (OWN_V2, v2, "system.slice/spark.service", "max"),
            (OWN_V2, v2, "system.slice", "max"),
            (OWN_V1, v1, "yarn/container_1", V1_NO_LIMIT),
            (OWN_V1, v1, "yarn", V1_NO_LIMIT),
            (HOSTS_V1, v1, "", V1_NO_LIMIT),
        ],
    )
    def test_of_the_cgroup_or_one_above_if_that_has_less(
        self, machine, cgroup, write, path, no_limit
    ):
        root = machine(meminfo(8 * GIB), cgroup)
        write(root, path, no_limit, 50 * GIB)
        assert free_memory(root) == 8 * GIB
        write(root, path, 40 * GIB, 2 * GIB)
        assert free_memory(root) == 8 * GIB  # a limit that is far
        write(root, path, 4 * GIB, 3 * GIB, cached=GIB // 2)
        assert free_memory(root) == GIB + GIB // 2  # what is only cached can be had

    @pytest.mark.parametrize("nearest", [1, 2])
    def test_the_least_of_several_limits_holds(self, machine, nearest):
        root = machine(meminfo(8 * GIB), OWN_V2)
        v2(root, "system.slice/spark.service", nearest * GIB, 0)
        v2(root, "system.slice", (3 - nearest) * GIB, 0)
        assert free_memory(root) == GIB

    def test_limits_of_others_do_not_count(self, machine):
        root = machine(meminfo(8 * GIB), OWN_V2)
        v2(root, "system.slice/cron.service", GIB, 0)
        v2(root, "system.slice/spark.service/below", GIB, 0)
        v1(root, "system.slice/spark.service", GIB, 0)
        v2(root, "memory", GIB, 0)  # where v1 would be mounted
        assert free_memory(root) == 8 * GIB

    def test_a_limit_without_what_is_used_says_nothing(self, machine):
        root = machine(meminfo(8 * GIB), ROOT_V2)
        write(root / "sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
        assert free_memory(root) == 8 * GIB

    @pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "new words\n"])
    def test_unknown_is_none(self, machine, text):
        root = machine(text, ROOT_V2)
        v2(root, "", 4 * GIB, 0)
        assert free_memory(root) == 0

    @pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
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
