"""--strategy kv on real processes: algorithms without Keras."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import APPS, DATA, ROOT, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
KV = ("--strategy", "kv", "--num-workers", 2, "--num-ps", 2)


def test_kmeans_finds_the_corners(tmp_path):
    app = ROOT / "examples" / "kmeans" / "app.py"
    ended = submit("--json", "--lake", tmp_path, *KV, app)
    assert ended.status == 0, ended.stderr
    result = ended.result
    found = np.array(result["metrics"]["centres"])
    corners = 5 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    far = np.linalg.norm(found[:, None] - corners, axis=2)
    assert sorted(far.argmin(axis=0)) == [0, 1, 2, 3]
    assert far.min(axis=0).max() < 0.1
    losses = result["metrics"]["losses"]
    assert losses[-1] < 2.1 < losses[0]
    assert result["feeds"]["train"]["rows_trained"] == [20_000] * 8


def test_sparse_logistic_regression_on_a9a(tmp_path):
    data = DATA / "a9a"
    if not data.is_dir():
        pytest.skip(f"the a9a data is not at {data}")
    ended = submit(
        "--json", "--lake", tmp_path, *KV, ROOT / "examples" / "sparse_lr" / "app.py",
        "--train", data / "a9a", "--test", data / "a9a.t", "--epochs", 2, "--l1", 1,
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    metrics = ended.result["metrics"]
    assert metrics["accuracy"] >= 0.847
    assert metrics["auc"] >= 0.9
    assert 60 < metrics["not_zero"] < metrics["features"] == 124  # with the bias


def test_loop_of_ones_own_goes_on_from_its_checkpoint(tmp_path):
    """The chief dies in the third epoch: all go back to the end of the second one. Servers load it;
    workers of the chief before are sent away.
    """
    ended = submit("--json", "--lake", tmp_path, *KV, APPS / "kv_loop.py")
    assert ended.status == 0, ended.stderr
    result = ended.result
    assert result["metrics"] == {"begun": 2, "low": 4, "high": 4}
    assert result["feeds"]["train"]["rows_trained"] == [1000] * 4
    assert result["restarts"] == {"ps": 0, "chief": 1, "worker": 2}
