"""What the checks before the start say, without a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tfos.driver import preflight
from tfos.driver.containers import what_is_too_small
from tfos.errors import PreflightError
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import limits, probe
from tfos.spec.job import JobSpec


class Cluster:
    """As much of a SparkSession as the checks touch: a master, its slots, one executor's reply."""

    def __init__(self, master: str = "local[3]", slots: int = 3, reply: Any = None, **conf) -> None:
        self.slots, self.reply = slots, reply
        profiles = SimpleNamespace(defaultResourceProfile=lambda: "default")
        scala = SimpleNamespace(
            resourceProfileManager=lambda: profiles,
            maxNumConcurrentTasks=lambda profile: self.slots,
        )
        self.sparkContext = SimpleNamespace(
            master=master,
            _jsc=SimpleNamespace(sc=lambda: scala),
            getConf=lambda: SimpleNamespace(getAll=lambda: conf.items()),
            parallelize=lambda items, slices: self,
        )

    def mapPartitions(self, probe: Any) -> Cluster:
        return self

    def collect(self) -> list[Any]:
        if isinstance(self.reply, Exception):
            raise self.reply
        return [self.reply]


class TestContainers:
    @pytest.mark.parametrize(
        ("conf", "words"),
        [
            ({}, ["has 384 MiB", "take 580", "memoryOverhead=1024m"]),
            ({"spark.executor.memory": "20g", "spark.executor.cores": "8"}, ["has 2048", "2960"]),
            ({"spark.executor.memoryOverhead": "500"}, ["has 500 MiB"]),
            ({"spark.executor.memoryOverhead": "0.25g"}, ["has 256 MiB"]),
        ],
    )
    def test_too_small_for_tensorflow(self, conf, words):
        problem = what_is_too_small(conf)
        assert problem is not None
        assert all(word in problem for word in words), problem

    @pytest.mark.parametrize(
        "conf",
        [
            {"spark.executor.memoryOverhead": "1g"},
            {"spark.executor.memory": "8g"},
            {"spark.executor.memory": "2g", "spark.executor.memoryOverheadFactor": "0.4"},
            {"spark.executor.pyspark.memory": "2g"},
            {"spark.executor.cores": "8", "spark.task.cpus": "8", "spark.executor.memory": "6g"},
        ],
    )
    def test_large_enough(self, conf):
        assert what_is_too_small(conf) is None


def test_too_few_slots_names_both_numbers_and_who_needs_them():
    with pytest.raises(PreflightError) as caught:
        preflight.check_slots(Cluster(), JobSpec.of(num_ps=2, num_workers=3))
    words = ["6 slots", "1 chief, 2 ps, 3 worker", "has 3", "--master local[6]", "--num-workers"]
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("slots", "options", "expected"),
    [
        (15, {}, False),
        (16, {}, True),
        (16, {"overlap": "off"}, False),
        (5, {"overlap": "on"}, True),
        (80, {"strategy": "multi-worker"}, False),
        (4, {"strategy": "single"}, True),
    ],
)
def test_feed_is_made_beside_the_training_where_most_of_the_slots_are_free(
    slots, options, expected
):
    assert preflight.may_overlap(Cluster(slots=slots), JobSpec.of(**options)) is expected


def test_overlap_without_a_slot_for_it():
    words = r"5 slots .* 1 for making the feed.* has 4; use --master local\[5\].* or --overlap off"
    with pytest.raises(PreflightError, match=words):
        preflight.may_overlap(Cluster(slots=4), JobSpec.of(overlap="on"))


def test_slots_that_come_later_are_waited_for():
    cluster = Cluster("spark://host:7077", slots=0)
    asked = []

    def arriving(profile: str) -> int:
        asked.append(profile)
        return len(asked)

    cluster.sparkContext._jsc.sc().maxNumConcurrentTasks = arriving
    preflight.check_slots(cluster, JobSpec.of())
    assert len(asked) == 4


def test_slots_that_never_come_are_given_up_at_the_timeout():
    with pytest.raises(PreflightError, match=r"after 0\.3 s.*--start-timeout-secs"):
        cluster = Cluster("spark://host:7077", slots=1)
        preflight.check_slots(cluster, JobSpec.of(start_timeout_secs=0.3))


@pytest.fixture
def versions() -> dict[str, str]:
    return probe.versions()


def seen(*values: Any, cannot_write: str = "") -> probe.Seen:
    return probe.Seen("host-a", *values, "uid 185", cannot_write)


def check(reply: Any) -> None:
    lake = SimpleNamespace(uri=lambda name: f"/lake/run/{name}")
    preflight.check_executors(Cluster(reply=reply), JobSpec.of(), lake, ".marker", None)  # type: ignore[arg-type]


def test_equal_executors_pass(versions):
    check(seen(True, versions, {}))


@pytest.mark.parametrize("package", ["Python", "tensorflow", "tfos"])
def test_other_version_names_host_and_both_versions(versions, package):
    with pytest.raises(PreflightError) as caught:
        check(seen(True, {**versions, package: "0.0.1"}, {}))
    assert all(w in str(caught.value) for w in ("host-a", package, "0.0.1", versions[package]))


def test_executor_that_does_not_see_the_lake(versions):
    with pytest.raises(PreflightError, match=r"host-a does not see /lake/run/\.marker.*--lake"):
        check(seen(False, versions, {}))


def test_executor_that_sees_the_lake_and_may_not_write_there(versions):
    with pytest.raises(PreflightError, match=r"host-a sees /lake/run/, but uid 185.*EACCES.*same"):
        check(seen(True, versions, {}, cannot_write="EACCES"))


@pytest.mark.skipif(os.getuid() != 0, reason="another uid can be taken by root alone")
def test_a_directory_of_somebody_elses_is_seen_to_be_so_at_once(tmp_path):
    """In a process of its own, as the uid that pods of docker/'s image have."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        directory.chmod(0o755)
        lake = RunDirectory(str(directory), "r")
        marker = lake.check_writable()
        code = (
            "import os; from tfos.lake.run_directory import RunDirectory; from tfos.runtime import"
            f" probe; lake = RunDirectory({str(directory)!r}, 'r'); os.setuid(185);"
            f" print(probe.problem(probe.look(lake, {marker!r}), lake, {marker!r}, {{}}))"
        )
        begun = time.monotonic()
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "but uid 185, which it has, may not write there" in said.stdout, said.stderr
        assert "Permission denied" in said.stdout
        assert time.monotonic() - begun < 10
        assert lake.list("") == [marker]
    finally:
        shutil.rmtree(directory)


def test_executor_without_tfos():
    with pytest.raises(PreflightError, match=r"no module 'tfos'.*--archives"):
        check(RuntimeError("ModuleNotFoundError: No module named 'tfos'\n  at java"))


GIB = 1 << 30


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"RLIMIT_AS": 2 * GIB},
            r"2\.00 GiB .*RLIMIT_AS.*2\.5 GiB.*spark\.executor\.pyspark\.memory",
        ),
        ({"RLIMIT_AS": 512 << 20}, r"0\.50 GiB .*spark\.executor\.memoryOverhead"),
        ({"RLIMIT_AS": 4 * GIB, "RLIMIT_NOFILE": 64}, r"open 64 files.*RLIMIT_NOFILE.*ulimit -n"),
        ({"RLIMIT_NPROC": 50}, r"50 threads.*RLIMIT_NPROC.*ulimit -u"),
    ],
)
def test_limit_under_which_no_role_starts(versions, found, words):
    with pytest.raises(PreflightError, match=rf"executor host host-a .*{words}"):
        check(seen(True, versions, found))


def test_limits_that_are_common_are_no_obstacle(versions):
    common = {"RLIMIT_AS": 3 * GIB, "RLIMIT_NOFILE": 256, "RLIMIT_NPROC": 1024}
    check(seen(True, versions, common))
    check(seen(True, versions, limits.read_limits()))


def test_limits_are_those_of_the_process_that_asks():
    """In a process of its own: an address space cannot be made larger again."""
    code = (
        "import resource; from tfos.runtime.limits import read_limits;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB})); print(read_limits())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"'RLIMIT_AS': {GIB}" in said.stdout
