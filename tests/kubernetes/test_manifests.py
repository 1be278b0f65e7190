"""The manifests of docs/kubernetes on a real Kubernetes, with this machine's programs in pods.

Non-root, with a read-only root file system, a lake on a claim, and a driver's pod that is deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import APPS, ROOT, poll
from images import on_machine
from kubernetes_cluster import KubernetesCluster, binaries
from pod_runs import DOCS, IMAGE, pods, template

from tfos.lake.run_directory import RunDirectory, checkpoint_order

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytest_plugins = ["kubernetes_fixtures"]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.serial,
    pytest.mark.full,
    pytest.mark.timeout(400),
]
PYTHON = f"spark.pyspark.python={sys.executable}"
# lets the epoch under way be the last one
FINISH = ["--epochs", "10000", "--until", "/lake/finish"]


@pytest.fixture
def volume(kubernetes: KubernetesCluster, lake: Path) -> Iterator[None]:
    """One for the claim of docs/kubernetes/lake.json: this machine's directory."""
    claim = json.loads((DOCS / "lake.json").read_text())
    (mode,) = claim["spec"]["accessModes"]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "lake"},
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": [mode],
            "hostPath": {"path": str(lake)},
        },
    }
    kubernetes.apply(volume)
    yield
    kubernetes.kubectl("delete", "job", "app", "--ignore-not-found")
    kubernetes.kubectl("delete", "configmap/app", "pvc/lake", "pv/lake", "--ignore-not-found")


@pytest.fixture
def prepared(kubernetes: KubernetesCluster, volume: None) -> KubernetesCluster:
    """The cluster with the claim "lake" and the ConfigMap "app"."""
    app = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "app"},
        "data": {
            "app.py": (APPS / "counting.py").read_text(),
            "pod.json": json.dumps(template()),
        },
    }
    kubernetes.apply(json.loads((DOCS / "lake.json").read_text()), app)
    return kubernetes


def of_machine(document: str) -> dict:
    """A manifest with the image that has no programs."""
    return json.loads(document.replace("registry.example/tfos:1", IMAGE))


def job_of_machine() -> dict:
    """The Job of docs/kubernetes, small enough for one node, with an app that trains on."""
    job = of_machine((DOCS / "job.json").read_text())
    pod = job["spec"]["template"] = on_machine(job["spec"]["template"])
    (driver,) = pod["spec"]["containers"]
    cores = "spark.kubernetes.executor.request.cores=0.5"
    driver["args"][1:1] = ["--num-ps", "1", "--num-workers", "1", "--checkpoint-secs", "2"]
    driver["args"][-1:] = ["--conf", PYTHON, "--conf", cores, *driver["args"][-1:], *FINISH]
    driver["resources"]["requests"]["cpu"] = "500m"
    return job


def run_in(lake: Path) -> RunDirectory:
    """The one run of a lake, when it has begun."""
    (name,) = poll(lambda: [path.name for path in lake.glob("app-*")], 120, "the run begins")
    return RunDirectory(str(lake), name)


def survive(run: RunDirectory, delete: Callable[[], object]) -> None:
    """Waits for a checkpoint, deletes the driver's pod, and waits for one of a later attempt."""
    newest = poll(run.newest_checkpoint, 150, "a checkpoint")
    delete()

    def goes_on() -> bool:
        now = run.newest_checkpoint()
        return checkpoint_order(now)[1] > checkpoint_order(newest)[1]

    poll(goes_on, 150, "another driver continues the run")


def test_a_job_goes_on_when_its_pod_is_deleted(prepared, lake):
    prepared.apply(job_of_machine())
    run = run_in(lake)
    poll(run.newest_checkpoint, 150, "a checkpoint")
    inside = ("exec", "job/app", "--", "pl_submit")
    named = (run.run_id, "--lake", "/lake")
    assert "chief-0" in prepared.kubectl(*inside, "status", *named)
    prepared.kubectl(*inside, "logs", run.run_id, "worker:0", "--lake", "/lake")
    assert "train() begins" in prepared.kubectl("logs", "job/app")
    survive(
        run,
        lambda: prepared.kubectl("delete", "pod", "-l", "batch.kubernetes.io/job-name=app"),
    )
    (lake / "finish").touch()
    prepared.kubectl("wait", "--for=condition=complete", "job/app", "--timeout=100s")
    result = run.result()
    check_counts(result, worker_deaths=0)
    assert result["attempts"] == 1
    assert pods(prepared, "executor") == []


def test_the_ten_commands_of_the_page(kubernetes, volume, lake, tmp_path):
    """But for the first one, which builds the image and takes it to a registry."""
    title = "## From kubectl to a trained model\n"
    _, _, page = (DOCS / "README.md").read_text().partition(title)
    block = re.search(r"(?:^    .*\n)+", page, re.MULTILINE)[0]
    build, *commands = [line.strip() for line in block.splitlines()]
    assert build.startswith("docker/build")
    assert len(commands) == 9
    docs = tmp_path / "docs" / "kubernetes"
    shutil.copytree(DOCS, docs)
    (docs / "job.json").write_text(json.dumps(job_of_machine()))
    (docs / "pod.json").write_text(json.dumps(template()))
    shutil.copy(APPS / "counting.py", tmp_path / "app.py")
    environment = {**os.environ, "PATH": f"{binaries()}:{os.environ['PATH']}"}

    def start(line: str, run: str = "") -> subprocess.Popen[str]:
        words = ("bash", "-c", f"cd {tmp_path} && {line.replace('app-UID', run)}")
        return subprocess.Popen(
            kubernetes.inside(*words), env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def do(line: str, run: str = "") -> str:
        process = start(line, run)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, (line, said)
        return said

    for line in commands[:4]:
        do(line)
    run = run_in(lake)
    follow, status, logs, kill, delete = commands[4:]
    assert follow.startswith("kubectl logs -f")
    follower = start(follow)
    try:
        poll(run.newest_checkpoint, 150, "a checkpoint")
        assert re.search(r"chief-0 +\S", do(status, run.run_id))
        assert do(logs, run.run_id)
        assert re.search("ended: failed: driver 0 on .*: cancelled by", do(kill, run.run_id))
        said, _ = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert re.search("the run failed: .*cancelled by", said)
    do(delete)


def is_served(definition: dict) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return ("Established", "True") in [(each["type"], each["status"]) for each in conditions]


def test_the_spark_operators_resource_is_one_by_its_schema(kubernetes):
    """The operator itself does not run here."""
    definition = binaries() / "sparkapplications.yaml"
    if not definition.exists():
        pytest.skip(f"no {definition}: run tests/kubernetes/build")
    manifest = (DOCS / "sparkapplication.json").read_text()
    kubernetes.kubectl("create", "-f", "-", text=definition.read_text())
    kind = "sparkapplications.sparkoperator.k8s.io"
    try:
        poll(lambda: is_served(kubernetes.get("crd", kind)), 30, "the resource is served")
        dry = ("create", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name")
        assert kubernetes.kubectl(*dry, text=manifest).startswith("sparkapplication")
        with pytest.raises(RuntimeError, match="unknown field"):
            kubernetes.kubectl(*dry, text=manifest.replace('"restartPolicy"', '"restart"'))
    finally:
        kubernetes.kubectl("delete", "crd", kind)
