"""What a namespace refuses to have, told of before there are pods: a real Kubernetes is asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pod_runs import DOCS

pytest_plugins = ["kubernetes_fixtures"]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.serial,
    pytest.mark.full,
    pytest.mark.timeout(300),
]
CLAIM = "spark.kubernetes.executor.volumes.persistentVolumeClaim.lake.options.claimName"
# the name of an account, settings of Spark, the words
ASKED = [
    ("tfos", {}, r"none"),
    ("default", {}, r"system:serviceaccount:default:default may not create, .*, watch, .* pods; "),
    ("half", {}, r"half may not delete, deletecollection pods; create, deletecollection configm"),
    ("half", {CLAIM: "OnDemand"}, r"; create, list, deletecollection persistentvolumeclaims in"),
    ("tfos", {"spark.kubernetes.namespace": "other"}, r"tfos may not .* in the namespace other"),
    ("tfos", {CLAIM: "lake"}, rf"no PersistentVolumeClaim lake in the namespace .*{CLAIM}"),
    ("tfos", {CLAIM: "OnDemand"}, r"none"),
    ("tfos", {"spark.executor.instances": "9"}, r"Quota small .* 8 pods "),
    (
        "tfos",
        {"spark.executor.memory": "4g", "spark.executor.memoryOverhead": "2g"},
        r"8\.0 GiB of memory \(limits.memory\), .* 12\.0 GiB",
    ),
]  # fmt: skip


def test_what_is_missing_is_named(kubernetes):
    verbs = ["create", "get", "list", "watch", "patch", "update"]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "half"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}],
    }
    account, _, binding = json.loads((DOCS / "rights.json").read_text())["items"]
    halves = json.loads(
        json.dumps([account, binding])
        .replace('"tfos-driver"', '"half"')
        .replace('"tfos"', '"half"')
    )
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "8", "limits.memory": "8Gi"}},
    }
    kubernetes.apply(role, *halves, quota)
    try:
        accounts = {account for account, _, _ in ASKED}
        tokens = {name: kubernetes.kubectl("create", "token", name).strip() for name in accounts}
        key = "spark.kubernetes.authenticate.oauthToken"
        lines = [json.dumps({**conf, key: tokens[name]}) for name, conf, _ in ASKED]
        asks = Path(__file__).with_name("asks.py")
        ended = subprocess.run(
            kubernetes.inside(sys.executable, str(asks)),
            input="\n".join(lines), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    finally:
        kubernetes.kubectl("delete", "resourcequota/small")
    said = ended.stdout.splitlines()
    assert len(said) == len(ASKED), ended.stderr
    for problem, (name, conf, words) in zip(said, ASKED, strict=True):
        assert re.search(words, problem), (name, conf, problem)
