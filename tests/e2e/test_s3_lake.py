"""A whole run whose lake is an S3 server."""

from __future__ import annotations

import json

import pytest
from conftest import APPS, submit

pytest_plugins = ["s3"]
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(400)]


def test_run_on_s3(s3):
    url = f"s3://{s3.bucket}/runs"
    ended = submit("--json", "--run-id", "cloud", "--lake", url, APPS / "linear.py")
    assert ended.status == 0, ended.stderr
    result = ended.result
    assert result["status"] == "succeeded"
    assert result["feeds"]["train"]["rows_trained"] == [4000, 4000]
    assert result["metrics"]["history"][-1] < result["metrics"]["history"][0]
    assert result["model"] == f"{url}/cloud/model"

    client, run = s3.client(), f"{s3.bucket}/runs/cloud"
    assert json.loads(client.cat_file(f"{run}/result.json"))["run_id"] == "cloud"
    marker = json.loads(client.cat_file(f"{run}/model/COMMIT"))
    assert {"saved_model.pb", "model.keras"} <= set(marker["files"])
    assert {name: client.size(f"{run}/model/{name}") for name in marker["files"]} == {
        name: file["bytes"] for name, file in marker["files"].items()
    }
    checkpoints = client.ls(f"{run}/checkpoints", detail=False)
    assert len(checkpoints) == 2
    assert all(client.exists(f"{checkpoint}/COMMIT") for checkpoint in checkpoints)
    assert any(name.endswith(".log") for name in client.find(f"{run}/logs"))
