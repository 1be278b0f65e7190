"""Runs in pods: what they are submitted with, and what is looked at while they go on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT, poll
from images import on_machine
from kubernetes_cluster import KubernetesCluster
from node_files import ADDRESS
from runs import Run

from tfos.lake.run_directory import checkpoint_order

IMAGE = "localhost/machine:1"
DOCS = ROOT / "docs" / "kubernetes"
API = "k8s://https://127.0.0.1:6443"
# Spark's uid, whom the image's processes belong to
UID = 185


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
    """Waits for a checkpoint of a later attempt than that of `after`; returns its name."""
    before = checkpoint_order(after)[1] if after else 0

    def found() -> str | None:
        run.check_alive()
        newest = run.lake.newest_checkpoint()
        return newest if newest and checkpoint_order(newest)[1] > before else None

    try:
        return str(poll(found, secs, f"a checkpoint of a later attempt than that of {after}"))
    except AssertionError as error:
        raise AssertionError(f"{error}: {run.stderr[-5000:]}") from None
