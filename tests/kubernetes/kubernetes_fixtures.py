"""One Kubernetes for all tests of a process, runs on it, and what a test may not leave there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import poll
from images import write_machine_image
from kubernetes_cluster import KubernetesCluster, binaries
from pod_runs import DOCS, IMAGE, UID, options
from runs import Run


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesCluster]:
    """A cluster with an image of this machine's programs, and docs/kubernetes/rights.json."""
    binaries()
    home = tmp_path_factory.mktemp("kubernetes")
    cluster = KubernetesCluster(home / "cluster")
    try:
        write_machine_image(home / "machine.tar", IMAGE)
        cluster.load_image(home / "machine.tar")
        cluster.apply(*json.loads((DOCS / "rights.json").read_text())["items"])
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
