"""One Kubernetes for all tests of a module, runs on it, and what a test may not leave there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, poll
from images import on_machine, write_machine_image
from kubernetes_cluster import KubernetesCluster, binaries
from node_files import ADDRESS
from runs import Run

IMAGE = "localhost/machine:1"
DOCS = ROOT / "docs" / "kubernetes"
API = "k8s://https://127.0.0.1:6443"
# Spark's uid, whom the image's processes belong to
UID = 185


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesCluster]:
    """A cluster with an image of this machine's programs, and docs/kubernetes/rights.json."""
    binaries()
    home = tmp_path_factory.mktemp("kubernetes")
    cluster = KubernetesCluster(home / "cluster")
    try:
        write_machine_image(home / "machine.tar", IMAGE)
        cluster.load_image(home / "machine.tar")
        cluster.apply(*json.loads((DOCS / "rights.json").read_text()))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def kubernetes(
    running: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KubernetesCluster]:
    """The cluster; what a test leaves in it fails the test, and is removed."""
    monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
    before = objects(running)
    yield running
    try:
        poll(lambda: objects(running) <= before, 60, "nothing is left in the namespace")
    finally:
        for name in objects(running) - before:
            running.kubectl("delete", name, "--grace-period=1", "--wait=false")


def objects(cluster: KubernetesCluster) -> set[str]:
    """What runs may leave in the namespace: "pod/app-1-driver"."""
    kinds = "pods,services,configmaps,persistentvolumeclaims,jobs"
    return set(cluster.kubectl("get", kinds, "-o", "name").split())


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    os.chown(folder, UID, UID)
    return folder


def template(user: int = UID) -> dict[str, Any]:
    """Of pods that run this machine's programs; those of docs/kubernetes/pod.json but for root."""
    if user != UID:
        return on_machine(
            {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "spark"}]}}
        )
    return on_machine(json.loads((DOCS / "pod.json").read_text()))


def options(lake: Path, folder: Path, user: int, is_dynamic: bool) -> tuple[object, ...]:
    """Of pl_submit, for two executors that see the lake, or as many as come for the roles.

    folder: for a file of the test's.
    """
    file = folder / f"template-{user}.json"
    file.write_text(json.dumps(template(user)))
    conf = {"container.image": IMAGE}
    for role in ("driver", "executor"):
        conf[f"{role}.podTemplateFile"] = str(file)
        conf[f"{role}.request.cores"] = "0.4"
        conf[f"{role}.volumes.hostPath.lake.mount.path"] = str(lake)
        conf[f"{role}.volumes.hostPath.lake.options.path"] = str(lake)
    return (
        "--master", API, "--strategy", "ps", "--num-ps", 1, "--num-workers", 1,
        *(() if is_dynamic else ("--num-executors", 2)),
        "--executor-cores", 2, "--executor-memory", "512m",
        "--conf=spark.executor.memoryOverhead=2g", f"--conf=spark.pyspark.python={sys.executable}",
        *(f"--conf=spark.kubernetes.{key}={value}" for key, value in conf.items()),
    )  # fmt: skip


# its default is a name, and this cluster has no DNS
IN_CLUSTER = (
    "--deploy-mode", "cluster", "--driver-memory", "512m", "--conf=spark.driver.memoryOverhead=1g",
    "--conf=spark.kubernetes.authenticate.driver.serviceAccountName=tfos",
    f"--conf=spark.kubernetes.driver.master=https://{ADDRESS}:6443",
)  # fmt: skip
# the driver on the node, and no pod
ON_NODE = (f"--conf=spark.driver.host={ADDRESS}", f"--conf=spark.driver.bindAddress={ADDRESS}")


@pytest.fixture
def start(
    kubernetes: KubernetesCluster, lake: Path, tmp_path: Path
) -> Iterator[Callable[..., Run]]:
    """Starts a run on the cluster. user: of its pods; of a driver on the node that is root."""
    runs = []

    def make(
        run_id: str, *more: object, user: int = UID, is_dynamic: bool = False, **arguments: Any
    ) -> Run:
        given = (*options(lake, tmp_path, user, is_dynamic), *more)
        runs.append(Run(lake, run_id, *given, where=kubernetes.inside, **arguments))
        return runs[-1]

    yield make
    for run in runs:
        if run.close():  # its test has failed, and the driver goes on
            kubernetes.kubectl("delete", "pods", "-l", "spark-role", "--grace-period=1")


def pods(cluster: KubernetesCluster, role: str) -> list[str]:
    """The names of Spark's pods that run. role: driver or executor."""
    items = cluster.get("pods", "-l", f"spark-role={role}")["items"]
    return [
        pod["metadata"]["name"]
        for pod in items
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def pod_of(run: Run, task: str) -> str:
    """The pod that a role came up in last."""
    return re.findall(rf" {task} is up on (\S+)", run.stderr)[-1]


def await_checkpoint(run: Run, after: str | None = None, secs: float = 150) -> str:
    """Waits for a checkpoint that is newer than `after`; returns its name."""

    def found() -> str | None:
        run.check_alive()
        newest = run.lake.newest_checkpoint()
        return newest if newest != after else None

    try:
        return str(poll(found, secs, f"a checkpoint after {after}"))
    except AssertionError as error:
        raise AssertionError(f"{error}: {run.stderr[-5000:]}") from None
