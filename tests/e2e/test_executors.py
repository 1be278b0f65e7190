"""Dynamic allocation on a real cluster: executors of several sizes, one of which is lost."""

from __future__ import annotations

import re

import psutil
import pytest
from conftest import poll
from runs import Run
from test_recovery import check_counts

from tfos.compat.spark import lost_task
from tfos.fault.failures import said_by

pytest_plugins = ["sessions"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


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


@pytest.fixture
def run(standalone, tmp_path, no_leaks):
    run = Run(
        tmp_path, "sized", "--master", standalone, "--conf", "spark.executor.cores=1",
        "--executor-memory", "512m", "--num-ps", 1, "--num-workers", 1,
        "--ps-memory", "1100m", "--ps-cores", 2,
    )  # fmt: skip
    yield run
    run.close()


def test_roles_have_executors_of_their_sizes_and_a_lost_one_leads_to_a_new_attempt(run):
    run.wait_for_training()
    tasks = ("ps-0", "chief-0", "worker-0")
    executors = {task: psutil.Process(run.executor(task)) for task in tasks}
    assert len(set(executors.values())) == 3
    heaps = {task: re.findall(r"-Xmx(\d+)M", str(e.cmdline())) for task, e in executors.items()}
    assert heaps == {"ps-0": ["1100"], "chief-0": ["512"], "worker-0": ["512"]}

    run.survive(executors["worker-0"].kill)
    assert run.executor("ps-0") == executors["ps-0"].pid, "it is used again"
    result = run.finish()
    assert "executors, by dynamic allocation: 1 ps (1100 MiB, 2 cores), 1 chief" in run.stderr
    assert re.search(r"worker 0 on .* failed: .* an executor was lost", run.stderr)
    assert result["attempts"] == 2
    check_counts(result, worker_deaths=0)
