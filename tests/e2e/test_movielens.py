"""The main job on real data, as a user submits it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, Submitted, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(400)]
APP = ROOT / "examples" / "fm_movielens" / "app.py"


def check(ended: Submitted, lake: Path, epochs: int) -> dict:
    """What every good run of the example must show."""
    assert ended.status == 0, ended.stderr
    result = ended.result
    assert ended.stdout.count("\n") == 1  # result.json and nothing else
    assert result["status"] == "succeeded"
    assert result["error"] is None
    run = lake / result["run_id"]
    assert json.loads((run / "result.json").read_text()) == result
    train = result["feeds"]["train"]
    assert train["rows"] + result["feeds"]["test"]["rows"] == 100_836
    assert train["rows_trained"] == [train["rows"]] * epochs
    # one process reaches 0.813; the number and the place of the roles must not matter
    assert abs(result["metrics"]["test_rmse"] - 0.813) <= 0.01
    assert len(list(run.glob("checkpoints/*/COMMIT"))) == 3
    assert set(result["seconds"]) >= {"etl", "start", "train", "total"}
    return result


def test_parameter_servers_in_local_mode_leave_a_model(tmp_path, movielens):
    ended = submit("--json", "--lake", tmp_path, APP, "--data", movielens)
    result = check(ended, tmp_path, 15)
    run = tmp_path / result["run_id"]
    logs = {path.stem for path in run.glob("logs/1/*.log")}
    assert logs == {"chief-0", "ps-0", "worker-0", "worker-1"}
    # what Spark and TensorFlow say of themselves is in the driver's log alone
    chatter = ("incubator modules", "NativeCodeLoader", "absl::InitializeLog", "cpu_feature_guard")
    driver_log = (run / "logs" / "driver.log").read_text()
    for words in chatter:
        assert words in driver_log
        assert words not in ended.stderr
    for user in (1, 2, 3):  # a table each, of ten rated titles
        _, found, table = ended.stderr.partition(f"Unseen movies for user {user}")
        ratings = re.findall(r"│ (\d\.\d\d) +│ \S", table.partition("└")[0])
        assert found
        assert len(ratings) == 10
        assert ratings == sorted(ratings, reverse=True)
    assert (Path(result["model"]) / "COMMIT").exists()
    _serve(result["model"])


def _serve(model: str) -> None:
    """The exported model answers by its signature, with nothing but TensorFlow."""
    import tensorflow as tf

    serve = tf.saved_model.load(model).signatures["serving_default"]
    inputs = {
        name: tf.zeros([2], spec.dtype)
        for name, spec in serve.structured_input_signature[1].items()
    }
    inputs["genres"] = tf.constant([1, 2, 3], inputs["genres"].dtype)
    inputs["genres_row_splits"] = tf.constant([0, 1, 3], tf.int64)
    (ratings,) = serve(**inputs).values()
    assert ratings.shape == [2]
    assert 0.5 <= float(tf.reduce_min(ratings)) <= float(tf.reduce_max(ratings)) <= 5.0
    assert Path(model, "model.keras").is_file()


def test_two_servers_and_three_workers_on_a_standalone_cluster(
    tmp_path, movielens, standalone, zookeeper
):
    ended = submit(
        "--json", "--master", standalone, "--zookeeper", f"{zookeeper}/some/chroot",
        "--num-ps", 2, "--num-workers", 3, "--lake", tmp_path, APP, "--data", movielens,
    )  # fmt: skip
    check(ended, tmp_path, 15)
    from kazoo.client import KazooClient

    client = KazooClient(hosts=zookeeper)
    client.start()
    assert client.get_children("/some/chroot/tfos") == []
    client.stop()
    client.close()


def test_single_process(tmp_path, movielens):
    ended = submit("--json", "--strategy", "single", "--lake", tmp_path, APP, "--data", movielens)
    result = check(ended, tmp_path, 15)
    assert {path.stem for path in tmp_path.glob("*/logs/1/*.log")} == {"chief-0"}
    assert result["restarts"] == {"chief": 0}
