"""Pods on a real Kubernetes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import APPS, ROOT, our_processes, poll, start_submit
from images import write_machine_image
from kubernetes_cluster import KubernetesCluster, binaries
from node_files import ADDRESS, PAUSE

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.serial, pytest.mark.timeout(300)]


IMAGE = "localhost/machine:1"


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[KubernetesCluster]:
    binaries()
    cluster = KubernetesCluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


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


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


@pytest.fixture
def submit(kubernetes, tmp_path, lake, monkeypatch):
    """Submits to the cluster, whose pods run this machine's programs, and see the lake."""
    template = write_machine_image(tmp_path / "machine.tar", IMAGE)
    kubernetes.load_image(tmp_path / "machine.tar")
    (tmp_path / "template.json").write_text(json.dumps(template))
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig))
    conf = {"container.image": IMAGE}
    for pods in ("driver", "executor"):
        conf[f"{pods}.podTemplateFile"] = tmp_path / "template.json"
        conf[f"{pods}.request.cores"] = 0.5
        conf[f"{pods}.volumes.hostPath.lake.mount.path"] = lake
        conf[f"{pods}.volumes.hostPath.lake.options.path"] = lake

    def start(run_id, *options):
        return start_submit(
            "--master", "k8s://https://127.0.0.1:6443", "--json", "--strategy", "ps",
            "--num-ps", 1, "--num-workers", 1, "--num-executors", 2, "--executor-cores", 2,
            "--executor-memory", "512m", "--conf=spark.executor.memoryOverhead=2g",
            f"--conf=spark.pyspark.python={sys.executable}",
            *(f"--conf=spark.kubernetes.{key}={value}" for key, value in conf.items()),
            "--lake", lake, "--run-id", run_id, *options, where=kubernetes.inside,
        )  # fmt: skip

    return start


@pytest.mark.full
def test_a_run_in_cluster_mode_is_followed_to_its_end(kubernetes, submit, lake):
    """The driver in a pod, with the rights that docs/kubernetes asks for; the app from here."""
    kubernetes.apply(*json.loads((ROOT / "docs" / "kubernetes" / "rights.json").read_text()))
    process = submit(
        "inside", "--deploy-mode", "cluster", "--driver-memory", "512m",
        "--conf=spark.driver.memoryOverhead=1g",
        "--conf=spark.kubernetes.authenticate.driver.serviceAccountName=tfos",
        # its default is a name, and this cluster has no DNS
        f"--conf=spark.kubernetes.driver.master=https://{ADDRESS}:6443",
        APPS / "counting.py",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    check_counts(json.loads(stdout.splitlines()[-1]), worker_deaths=0)
    assert re.search(r"tfos: application: default:\S+-driver\n", stderr), stderr
    assert "starting ps-0, chief-0, worker-0" in stderr
    assert "succeeded: " in stderr
    assert os.listdir(lake) == ["inside"]
    left = kubernetes.get("pods")["items"]
    assert [pod["status"]["phase"] for pod in left] == ["Succeeded"]  # the driver's, with its log


@pytest.mark.full
def test_a_run_in_client_mode_has_its_roles_in_pods(kubernetes, submit):
    process = submit(
        "pods", f"--conf=spark.driver.host={ADDRESS}",
        f"--conf=spark.driver.bindAddress={ADDRESS}", APPS / "counting.py",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    check_counts(result, worker_deaths=0)
    hosts = set(re.findall(r"on (\S+-exec-\d)", stderr))
    assert len(hosts) == 2, stderr
    poll(lambda: not kubernetes.get("pods")["items"], 60, "the executors' pods are gone")
