"""Pods of a run that are deleted, evicted, drained and killed on a real Kubernetes."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
from conftest import APPS, ROOT, poll
from node_files import PAUSE
from pod_runs import IN_CLUSTER, ON_NODE, await_checkpoint, pod_of, pods

from tfos.client.control import cancel

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
    """The chief's is evicted, the driver's deleted; in the end all rows are as the run says."""
    run = start("mortal", *IN_CLUSTER)
    newest = await_checkpoint(run)

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
    await_checkpoint(run, newest)

    result = run.finish()
    check_counts(result, worker_deaths=2)
    assert "got SIGTERM: a checkpoint was saved first" in run.stderr
    names = re.findall(r"tfos: application: default:(\S+)", run.stderr)
    assert len(set(names)) == 2


def test_a_node_is_drained(start, kubernetes):
    """Its pods are evicted; those that come instead wait until a node takes them."""
    run = start("drained", *IN_CLUSTER)
    newest = await_checkpoint(run)
    selector = "--pod-selector=spark-role=executor"
    options = ("--force", "--delete-emptydir-data", "--timeout=60s")
    kubernetes.kubectl("drain", "node", selector, *options)
    assert pods(kubernetes, "executor") == []
    kubernetes.kubectl("uncordon", "node")
    await_checkpoint(run, newest)
    result = run.finish()
    check_counts(result, worker_deaths=1)
    assert "preempted" in {failure["kind"] for failure in result["failures"]}


def test_a_process_that_is_over_its_pods_memory_says_so(start):
    run = start(
        "hungry", *IN_CLUSTER, "--num-executors", 1, "--strategy", "single", "--max-restarts", 0,
        "--conf=spark.executor.memoryOverhead=1g", app=APPS / "hungry.py", args=(),
        takes_until=False,
    )  # fmt: skip
    _, words = run.fail(200)
    assert "memory" in words
    assert "spark.executor.memoryOverhead=SIZE" in words


def test_a_second_ctrl_c_takes_the_pods_along(start, lake):
    """Of the user who submits: what was uploaded is gone when the driver runs."""
    run = start("left", *IN_CLUSTER, user=0)
    await_checkpoint(run)
    assert sorted(os.listdir(lake)) == ["left"]
    run.interrupt()
    poll(lambda: "a second Ctrl-C within 3 s ends it" in run.stderr, 30, "it says so")
    run.interrupt()
    run.wait_for_end()
    assert "cancelled by" in json.dumps(run.lake.result())
    assert re.search(r"kubectl delete pod \S+-driver -n default", run.stderr)


def test_kill_from_outside_of_the_pods_network(start, kubernetes):
    run = start("killed", *IN_CLUSTER)
    await_checkpoint(run)
    (driver,) = pods(kubernetes, "driver")
    status = run.status
    assert status.state == "unreachable"
    assert f"kubectl exec -n default {driver} -- pl_submit status killed" in status.message
    result = cancel(run.lake)
    assert result.error["message"].startswith("cancelled by ")
    run.fail()


def test_a_role_has_a_pod_of_its_size(start, kubernetes):
    """The server; chief and worker share one of the size that all others have."""
    run = start("sized", *IN_CLUSTER, "--ps-memory", "1536m", "--ps-cores", 1, is_dynamic=True)
    newest = await_checkpoint(run)
    items = kubernetes.get("pods", "-l", "spark-role=executor")["items"]
    memory = {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
        for pod in items
    }
    assert memory[pod_of(run, "ps-0")] == "1536Mi"
    assert memory[pod_of(run, "chief-0")] == memory[pod_of(run, "worker-0")] == "2560Mi"
    kubernetes.kubectl("delete", "pod", pod_of(run, "ps-0"))
    await_checkpoint(run, newest)
    result = run.finish()
    check_counts(result, worker_deaths=1)
    assert result["attempts"] == 2


def test_executors_that_came_are_given_back_where_not_all_did(start, kubernetes):
    """Two runs that wait for those of each other would both fail."""
    node = {"cpu": "900m"}
    blocker = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "blocker"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "only", "image": PAUSE, "resources": {"requests": node}}],
        },
    }
    kubernetes.apply(blocker)
    run = start(
        "patient", *ON_NODE, "--executor-cores", 1, "--strategy", "multi-worker",
        "--num-workers", 2, "--start-timeout-secs", 40,
        "--conf=spark.kubernetes.executor.request.cores=0.9", user=0, args=("--epochs", 2),
    )  # fmt: skip
    poll(lambda: "are given back for" in run.stderr, 120, "it gives back what it has")
    poll(lambda: pods(kubernetes, "executor") == [], 20, "they are gone")
    kubernetes.kubectl("delete", "pod", "blocker")
    result = run.finish(200)
    assert result["attempts"] == 1
    assert "has 1 after" in run.stderr
