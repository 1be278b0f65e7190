"""What is asked of Kubernetes before there are pods, without one."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

from tfos.driver.kubernetes import asked_of, needed, what_exceeds, what_is_missing

GIB = 2.0**30
CONF = {
    "spark.executor.cores": "2",
    "spark.executor.memory": "1g",
    "spark.executor.memoryOverhead": "1g",
}


CLAIM = "spark.kubernetes.executor.volumes.persistentVolumeClaim.{}.options.claimName"


class TestRights:
    def test_of_a_driver_that_pl_submit_starts_here(self):
        asked = needed({**CONF, CLAIM.format("lake"): "lake"})
        assert asked.keys() == {"pods", "configmaps"}
        assert not {"patch", "update"} & {verb for verbs in asked.values() for verb in verbs}

    def test_of_one_in_a_pod_of_its_own(self):
        more = needed({**CONF, "spark.kubernetes.submitInDriver": "true"})
        assert more == {**needed(CONF), "services": ("deletecollection",)}

    def test_follow_what_the_conf_asks_for(self):
        conf = {
            "spark.kubernetes.executor.disableConfigMap": "true",
            "spark.kubernetes.executor.deleteOnTermination": "false",
            CLAIM.format("scratch"): "OnDemand",
        }
        asked = needed(conf)
        assert "configmaps" not in asked
        assert asked["pods"][-1] == "patch"
        assert "create" in asked["persistentvolumeclaims"]

    def test_that_the_docs_grant_are_what_can_be_asked_for_and_what_is_looked_at(self):
        role = json.loads((ROOT / "docs" / "kubernetes" / "rights.json").read_text())["items"][1]
        granted = {rule["resources"][0]: {*rule["verbs"]} for rule in role["rules"]}
        conf = {
            "spark.kubernetes.submitInDriver": "true",
            "spark.kubernetes.executor.deleteOnTermination": "false",
            CLAIM.format("scratch"): "OnDemand",
        }
        asked = {resource: {*verbs} for resource, verbs in needed(conf).items()}
        asked["persistentvolumeclaims"].add("get")
        assert granted == {**asked, "resourcequotas": {"list"}}


def test_rights_that_are_missing_are_told_of_once():
    missing = {"pods": ["create", "delete"], "services": ["create", "delete"], "configmaps": []}
    assert what_is_missing(missing) == "create, delete pods, services"
    missing["configmaps"] = ["patch"]
    assert what_is_missing(missing) == "create, delete pods, services; patch configmaps"
    assert what_is_missing({"pods": []}) == ""


def test_what_all_executors_ask_for():
    assert asked_of(CONF, 3) == {"pods": 3, "cores": 6, "bytes of memory": 6 * GIB}
    few = asked_of({**CONF, "spark.kubernetes.executor.request.cores": "250m"}, 3)
    assert few["cores"] == 0.75
    assert asked_of({}, 2) == {"pods": 2, "cores": 2, "bytes of memory": 2 * (1024 + 384) * 2**20}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"requests.memory": (5 * GIB, 0)}, r"5\.0 GiB of memory \(requests\.memory\).* 6\.0 GiB"),
        ({"limits.memory": (5 * GIB, 0)}, r"\(limits\.memory\).*--executor-memory"),
        ({"cpu": (4, 0)}, r"4 cores \(cpu\), .* ask for 6 cores"),
        ({"pods": (2, 1)}, r"2 pods \(pods\).*--num-executors"),
    ],
)
def test_a_quota_that_is_too_small(limits, words):
    problem = what_exceeds({"small": limits}, asked_of(CONF, 3), "team")
    assert problem is not None
    assert "the ResourceQuota small of the namespace team has" in problem
    assert re.search(words, problem), problem


def test_quotas_that_have_room():
    # what a driver that has died still uses will be free
    room = {"cpu": (7, 6), "requests.memory": (6 * GIB, 0), "pods": (3, 3), "secrets": (0, 0)}
    assert what_exceeds({"wide": room}, asked_of(CONF, 3), "team") is None
    assert what_exceeds({}, asked_of(CONF, 3), "team") is None
