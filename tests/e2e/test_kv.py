"""--strategy kv on real processes: an algorithm without Keras, staleness, what is exported."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
KV = ("--strategy", "kv", "--num-workers", 2, "--num-ps", 2)


@pytest.mark.parametrize("staleness", ["inf", "0"])
def test_kmeans_finds_the_corners(tmp_path, staleness):
    ended = submit(
        "--json", "--lake", tmp_path, *KV, "--staleness", staleness,
        ROOT / "examples" / "kmeans" / "app.py",
    )  # fmt: skip
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
