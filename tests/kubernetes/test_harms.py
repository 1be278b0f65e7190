"""Pods of a run that are deleted, evicted, drained and killed on a real Kubernetes."""

from __future__ import annotations

import json
import re
import sys

import pytest
from conftest import ROOT, poll
from kubernetes_fixtures import IN_CLUSTER, await_checkpoint, pod_of, pods

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytest_plugins = ["kubernetes_fixtures"]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.serial,
    pytest.mark.full,
    pytest.mark.timeout(600),
]


def test_pods_may_go_and_so_may_the_drivers(start, kubernetes):
    """Each time the run goes on, and in the end every row has been trained on as it says."""
    run = start("mortal", *IN_CLUSTER)
    newest = await_checkpoint(run)

    kubernetes.kubectl("delete", "pod", pod_of(run, "worker-0"))
    newest = await_checkpoint(run, newest)

    chief = pod_of(run, "chief-0")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": chief, "namespace": "default"},
    }
    path = f"/api/v1/namespaces/default/pods/{chief}/eviction"
    kubernetes.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(eviction))
    newest = await_checkpoint(run, newest)

    (driver,) = pods(kubernetes, "driver")
    kubernetes.kubectl("delete", "pod", driver)
    poll(lambda: "another one continues it, 1 of 10" in run.stderr, 60, "it is submitted again")
    newest = await_checkpoint(run, run.lake.newest_checkpoint())

    result = run.finish()
    check_counts(result, worker_deaths=3)
    assert "got SIGTERM; a checkpoint was saved first" in run.stderr
    names = re.findall(r"tfos: application: default:(\S+)", run.stderr)
    assert len(set(names)) == 2


def test_a_node_is_drained(start, kubernetes):
    """Its pods are evicted; those that come instead wait until a node takes them."""
    run = start("drained", *IN_CLUSTER)
    newest = await_checkpoint(run)
    selector = "--pod-selector=spark-role=executor"
    kubernetes.kubectl("drain", "node", selector, "--force", "--timeout=60s")
    assert pods(kubernetes, "executor") == []
    kubernetes.kubectl("uncordon", "node")
    await_checkpoint(run, newest)
    result = run.finish()
    check_counts(result, worker_deaths=1)
    assert "preempted" in {failure["kind"] for failure in result["failures"]}
