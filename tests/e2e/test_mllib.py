"""The example that feeds what a pipeline of MLlib makes."""

from __future__ import annotations

import pytest
from conftest import ROOT, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]


def test_mllib_pipeline_beats_the_majority_class(tmp_path):
    ended = submit("--json", "--lake", tmp_path, ROOT / "examples" / "mllib_pipeline" / "app.py")
    assert ended.status == 0, ended.stderr
    metrics = ended.result["metrics"]
    assert 0.5 <= metrics["majority"] < 0.65
    assert metrics["accuracy"] > metrics["majority"] + 0.15
    assert metrics["auc"] > 0.8
    trained = ended.result["feeds"]["train"]["rows_trained"]
    assert trained == [ended.result["feeds"]["train"]["rows"]] * 3
    assert "majority class" in ended.stderr
