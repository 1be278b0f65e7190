"""What dies on a YARN cluster: containers, NodeManagers, whole nodes; and what is too small.

Whatever it is, the run goes on from its newest checkpoint, each row is trained on once in an epoch,
and nothing is left in containers.
"""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest
from conftest import ROOT, poll, start_submit
from yarn_runs import COUNTING, Training

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]
pytest_plugins = ["hadoop_fixtures"]


def test_a_container_that_is_killed(edge, tmp_path):
    run = Training("container", tmp_path)
    run.wait_for_training()
    os.kill(run.container("worker-0"), signal.SIGKILL)
    run.wait_for_training(attempts=2)
    result = run.finish()
    check_counts(result, worker_deaths=1)
    assert result["attempts"] == 2


def test_a_nodemanager_that_is_killed(edge, tmp_path):
    """YARN gives its containers up after a time, though they run."""
    run = Training("nodemanager", tmp_path)
    run.wait_for_training()
    node = edge.node_of(run.pid("chief-0"))
    edge.kill_node(node, is_whole=False)
    try:
        poll(lambda: edge.node_is_lost(node), 60, "the ResourceManager gives the node up")
        result = run.finish()
        check_counts(result, worker_deaths=result["attempts"])
    finally:
        edge.start_node(node)


def test_a_node_that_is_lost(edge, tmp_path):
    """With the driver on it."""
    run = Training("node", tmp_path)
    run.wait_for_training()
    node = edge.node_of(run.driver().pid)
    edge.kill_node(node, is_whole=True)
    try:
        run.wait_for_training(attempts=2)
        check_counts(run.finish(), worker_deaths=1)
    finally:
        edge.start_node(node)


def test_an_application_that_yarn_is_told_to_kill(edge, tmp_path):
    run = Training("told", tmp_path)
    run.wait_for_training()
    (application,) = edge.applications()
    edge.yarn("application", "-kill", application)
    assert run.process.wait(120) == 1
    poll(lambda: "the run failed" in run.lines[-1], 30, "the cause is told")
    assert re.fullmatch(
        r"tfos: the run failed: driver 0 on \S+: the run left no result; YARN says: Application"
        rf" {application} was killed by user root at 127\.0\.0\.1\n",
        run.lines[-1],
    ), run.lines[-5:]
    poll(lambda: not edge.processes(), 60, "nothing runs in containers")


def test_two_runs_at_once(edge, tmp_path):
    runs = [Training(f"beside-{number}", tmp_path) for number in range(2)]
    for run in runs:
        run.wait_for_training()
    for run in runs:
        result = run.finish()
        check_counts(result, worker_deaths=0)
        assert result["attempts"] == 1


def test_a_queue_without_room_for_the_roles(edge):
    """The driver has its container; not all executors ever get one."""
    process = start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--strategy", "ps", "--num-ps", 1,
        "--num-workers", 12, "--start-timeout-secs", 20, "--lake", "hdfs:///runs", "--run-id",
        "crowded", COUNTING, "--epochs", 2,
    )  # fmt: skip
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(r"too few slots: the run asks for 14 slots .* after 20 s", stderr), stderr
