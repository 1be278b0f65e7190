"""Dynamic allocation on a real cluster: executors of several sizes, one of which is lost."""

from __future__ import annotations

import re

import pytest
from conftest import APPS, poll, role_pids, start_submit, supervisor_of
from test_recovery import check_counts

from tfos.compat.spark import lost_task
from tfos.fault.failures import said_by
from tfos.lake.run_directory import RunDirectory

pytest_plugins = ["sessions"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
COUNTING = APPS / "counting.py"


def test_spark_is_asked_which_task_has_failed(spark):
    """Where Spark does not say it, a task that is lost is noticed by its silence alone."""

    def body(index, _):
        if index == 1:
            raise ValueError("no")
        return [index]

    context = spark.sparkContext
    context.setJobGroup("lost", "", True)
    rdd = context.parallelize(range(2), 2)
    rdd.mapPartitionsWithIndex(lambda index, _: [index]).collect()
    assert lost_task(context, "lost") is None
    with pytest.raises(Exception, match="ValueError: no"):
        rdd.mapPartitionsWithIndex(body).collect()
    _, index, reason = poll(lambda: lost_task(context, "lost"), 10, "it is told of")
    assert index == 1
    assert said_by(reason) == "ValueError: no"


def executor_of(pid):
    """The JVM of the executor in which a process of a role runs."""
    return next(p for p in supervisor_of(pid).parents() if p.name() == "java")


def test_roles_have_executors_of_their_sizes_and_a_lost_one_leads_to_a_new_attempt(
    standalone, tmp_path, no_leaks
):
    until = tmp_path / "until"
    process = start_submit(
        "--master", standalone, "--conf", "spark.executor.cores=1", "--executor-memory", "512m",
        "--num-ps", 1, "--num-workers", 1, "--ps-memory", "1100m", "--ps-cores", 2,
        "--checkpoint-secs", 1, "--lake", tmp_path, "--run-id", "sized", "--json",
        COUNTING, "--epochs", 10_000, "--until", until,
    )  # fmt: skip
    lake = RunDirectory(str(tmp_path), "sized")
    poll(lake.newest_checkpoint, 120, "there is a checkpoint")
    pids = role_pids("sized")
    executors = {name: executor_of(pid) for name, pid in pids.items()}
    assert len({executor.pid for executor in executors.values()}) == 3
    heaps = {name: re.findall(r"-Xmx\S+", str(e.cmdline()))[0] for name, e in executors.items()}
    assert heaps["ps-0"].startswith("-Xmx1100M")
    assert heaps["worker-0"] == heaps["chief-0"]
    executors["worker-0"].kill()
    poll(lambda: role_pids("sized").keys() == pids.keys() and not any(
        pid in pids.values() for pid in role_pids("sized").values()
    ), 60, "all roles have new processes")  # fmt: skip
    assert executor_of(role_pids("sized")["ps-0"]) == executors["ps-0"], "it is used again"
    until.touch()
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert re.search(
        r"executors, by dynamic allocation: 1 ps \(1100 MiB, 2 cores\), 1 chief", stderr
    )
    assert re.search(r"worker 0 on .* failed: .* an executor was lost", stderr)
    result = lake.result()
    assert result["attempts"] == 2
    check_counts(result, worker_deaths=0)
