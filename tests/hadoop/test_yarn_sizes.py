"""Executors of several sizes on a real YARN, which is asked what it has given."""

from __future__ import annotations

import sys

import psutil
import pytest
from conftest import ROOT, poll, role_pids, start_submit, supervisor_of
from yarn_runs import COUNTING, lines_of

from tfos.lake.run_directory import RunDirectory

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]
pytest_plugins = ["hadoop_fixtures"]


def test_roles_have_containers_of_their_sizes_and_one_that_is_lost_leads_to_a_new_attempt(
    edge, tmp_path
):
    """And workers a GPU each, which is one that this YARN knows nothing of."""
    until = tmp_path / "until"
    script = tmp_path / "gpus"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["7"]}'\n""")
    script.chmod(0o755)
    process = start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--strategy", "ps", "--num-ps", 1,
        "--num-workers", 2, "--ps-memory", "1536m", "--ps-cores", 2, "--worker-memory", "1408m",
        "--fork", "off",  # so that /proc has their environments
        "--worker-gpus", 1, "--conf", f"spark.executor.resource.gpu.discoveryScript={script}",
        "--lake", "hdfs:///runs", "--run-id", "sized", "--checkpoint-secs", 2,
        COUNTING, "--epochs", 10_000, "--until", until,
    )  # fmt: skip
    lines, reader = lines_of(process)
    poll(lambda: any("train epoch" in line for line in lines), 240, "it trains")
    (application,) = edge.applications()
    sizes = edge.containers(application)
    pids = role_pids("sized")
    environments = {name: psutil.Process(pid).environ() for name, pid in pids.items()}
    containers = {name: env["CONTAINER_ID"] for name, env in environments.items()}
    assert len(set(containers.values())) == 4
    assert {name: sizes[container] for name, container in containers.items()} == {
        "ps-0": (1536, 2), "worker-0": (1408, 1), "worker-1": (1408, 1),
        "chief-0": (1920, 1),  # as Spark's conf has it: 512 + 1400, which YARN rounds up
    }  # fmt: skip
    gpus = {name: env.get("CUDA_VISIBLE_DEVICES") for name, env in environments.items()}
    assert gpus == {"ps-0": "-1", "chief-0": "-1", "worker-0": "7", "worker-1": "7"}
    assert any("YARN has no resource yarn.io/gpu" in line for line in lines)

    lake = RunDirectory("hdfs:///runs", "sized")
    poll(lambda: lake.newest_checkpoint(), 60, "there is a checkpoint")
    executor = next(p for p in supervisor_of(pids["worker-1"]).parents() if p.name() == "java")
    executor.kill()
    again = poll(
        lambda: [number for number, line in enumerate(lines) if "starting ps-0" in line][1:],
        120, "the roles are launched again",
    )  # fmt: skip
    poll(lambda: any("train epoch" in line for line in lines[again[0] :]), 120, "it trains again")
    assert role_pids("sized").keys() == pids.keys()
    assert psutil.pid_exists(pids["chief-0"]) is False
    until.touch()
    assert process.wait(120) == 0, lines
    reader.join(10)
    result = lake.result()
    assert result["attempts"] == 2
    assert any("worker 1 on" in line and "an executor was lost" in line for line in lines)
    check_counts(result, worker_deaths=0)


def test_sizes_that_no_node_has_are_told_of(edge):
    process = start_submit(
        "--master", "yarn", "--strategy", "single", "--chief-memory", "100g", "--lake",
        "hdfs:///runs", "--run-id", "huge", "--start-timeout-secs", 20, COUNTING,
    )  # fmt: skip
    _, stderr = process.communicate(timeout=280)
    assert process.returncode == 1
    last = stderr.rpartition("tfos: the run failed")[2]
    assert "100 GiB" in last, stderr
    assert "chief" in last


def test_dynamic_allocation_without_sizes(edge):
    """What most clusters have; the executors of roles are not idle for as long as these run."""
    process = start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--strategy", "ps", "--num-ps", 1,
        "--num-workers", 1, "--conf", "spark.dynamicAllocation.enabled=true",
        "--conf", "spark.dynamicAllocation.shuffleTracking.enabled=true",
        "--conf", "spark.dynamicAllocation.executorIdleTimeout=2s",
        "--lake", "hdfs:///runs", "--run-id", "dynamic", COUNTING, "--epochs", 30,
    )  # fmt: skip
    _, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    result = RunDirectory("hdfs:///runs", "dynamic").result()
    check_counts(result, worker_deaths=0)
    assert result["attempts"] == 1
