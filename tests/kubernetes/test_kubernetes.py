"""Pods, and runs in pods, on a real Kubernetes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, our_processes, poll
from kubernetes_cluster import KubernetesCluster, binaries
from node_files import PAUSE
from pod_runs import IN_CLUSTER, ON_NODE

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytest_plugins = ["kubernetes_fixtures"]
pytestmark = [pytest.mark.cluster, pytest.mark.serial, pytest.mark.timeout(300)]
FEW = ("--epochs", 3)


def test_a_pod_runs_and_goes_and_nothing_is_left(tmp_path):
    binaries()
    before = set(our_processes())
    mounts = Path("/proc/mounts").read_text().count(str(tmp_path))
    cluster = KubernetesCluster(tmp_path / "cluster")
    try:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "first"},
            "spec": {"containers": [{"name": "only", "image": PAUSE}]},
        }
        cluster.apply(pod)
        poll(lambda: cluster.get("pod", "first")["status"]["phase"] == "Running", 60, "it runs")
        cluster.kubectl("delete", "pod", "first", "--grace-period=1")
        assert cluster.get("pods")["items"] == []
    finally:
        cluster.close()
    assert set(our_processes()) == before
    assert not list(Path("/sys/fs/cgroup").glob(f"*/tfos-tests-{os.getpid()}"))
    assert Path("/proc/mounts").read_text().count(str(tmp_path)) == mounts
    assert not (tmp_path / "cluster").exists()


@pytest.mark.full
def test_a_run_in_cluster_mode_is_followed_to_its_end(start, lake):
    """The driver in a pod, with the rights that docs/kubernetes asks for; the app from here."""
    run = start("inside", *IN_CLUSTER, args=FEW)
    check_counts(run.finish(280), worker_deaths=0)
    assert re.search(r"tfos: application: default:\S+-driver\n", run.stderr), run.stderr
    assert "starting ps-0, chief-0, worker-0" in run.stderr
    assert "succeeded: " in run.stderr
    assert sorted(os.listdir(lake)) == ["inside", "inside.finish"]


@pytest.mark.full
def test_a_run_in_client_mode_has_its_roles_in_pods(start):
    run = start("pods", *ON_NODE, user=0, args=FEW)
    check_counts(run.finish(280), worker_deaths=0)
    hosts = set(re.findall(r"on (\S+-exec-\d)", run.stderr))
    assert len(hosts) == 2, run.stderr


@pytest.mark.full
def test_a_lake_that_pods_may_not_write_is_told_of_before_the_start(start):
    """The driver on the node is root, and the pods are not."""
    result, words = start("theirs", *ON_NODE, args=FEW).fail(200)
    assert re.search(r"sees \S+/theirs\S*, but uid 185, which it has, may not write there", words)
    assert "Permission denied" in words
    assert result["feeds"] == {}
