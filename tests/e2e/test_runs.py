"""Ways to run an app: resumed, from Python, as a script."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import APPS, poll, role_pids, start_submit, submit

from tfos.lake.run_directory import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(400)]
LINEAR = APPS / "linear.py"


def is_runner(process: psutil.Process) -> bool:
    try:
        return any(part.endswith("cli/script.py") for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def kill_driver(process, lake):
    """Kills the driver of a run that has a checkpoint; the whole run must end with it."""
    poll(lake.newest_checkpoint, 120, "a checkpoint")
    state = lake.read_json(f"checkpoints/{lake.newest_checkpoint()}/state.json")
    assert state["sections"]["fit0"]["epoch"] < 4
    roles = role_pids(lake.run_id)
    parent = psutil.Process(process.pid)
    next(child for child in parent.children(recursive=True) if is_runner(child)).kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    poll(lambda: not any(map(psutil.pid_exists, roles.values())), 10, "the roles have ended")
    assert not lake.exists("result.json")


@pytest.mark.parametrize(
    ("strategy", "shards"), [("ps", 3), pytest.param("kv", 1, marks=pytest.mark.full)]
)
def test_killed_driver_is_resumed_with_the_same_accounting(tmp_path, zookeeper, strategy, shards):
    """And with other parameter servers, over which the table is divided anew."""
    job = ["--json", "--run-id", "killed", "--lake", tmp_path, "--checkpoint-secs", "1"]
    job += ["--zookeeper", zookeeper, "--strategy", strategy, "--num-workers", "1"]
    app = [APPS / "counting.py", "--own-table"]
    process = start_submit(*job, "--num-ps", "2", *app, "--epochs", "4", "--unit-secs", "0.3")
    kill_driver(process, RunDirectory(str(tmp_path), "killed"))
    again = [*job, "--num-ps", "3", "--resume", *app]
    ended = submit(*again, "--epochs", "5", "--unit-secs", "0")  # new arguments count
    assert ended.status == 0, ended.stderr
    result = ended.result
    assert result["feeds"]["train"]["rows_trained"] == [4000] * 5
    metrics = result["metrics"]
    assert (metrics["epochs"], metrics["attempt"], metrics["shards"]) == (5, 2, shards)
    # every row of the table has what the old servers made of it, and the rest from the new ones
    assert metrics["uneven"] == 0
    # the model has as many rows as pre_train() said, which did not run again
    assert "pre_train() is not run again" in ended.stderr


def test_driver_that_spark_starts_again_continues(tmp_path):
    """What YARN's application attempts and --supervise do: the same command once more."""
    dry = submit(
        "--dry-run", "--run-id", "again", "--lake", tmp_path, "--checkpoint-secs", "1",
        LINEAR, "--epochs", "4", "--step-secs", "0.08",
    )  # fmt: skip
    assert dry.status == 0
    command = shlex.split(dry.stdout)
    lake = RunDirectory(str(tmp_path), "again")
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    kill_driver(first, lake)
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "pre_train() is not run again" in again.stdout
    result = lake.read_json("result.json")
    assert result["feeds"]["train"]["rows_trained"] == [4000] * 4
    assert result["metrics"]["attempt"] == 2


def test_standalone_cluster_with_the_embedded_zookeeper(tmp_path, standalone):
    ended = submit("--json", "--num-workers", 1, "--master", standalone, "--lake", tmp_path, LINEAR)
    assert ended.status == 0, ended.stderr
    assert ended.result["restarts"] == {"ps": 0, "chief": 0, "worker": 0}


@pytest.mark.parametrize(
    "roles", [["--strategy", "single"], ["--num-workers", 1, "--num-ps", 1]], ids=["single", "ps"]
)
def test_training_begins_while_the_feed_is_made(tmp_path, roles):
    timeline = tmp_path / "timeline"
    options = ["--json", "--run-id", "early", "--lake", tmp_path, "--overlap", "on", *roles]
    slots = 2 if "single" in roles else 4
    app = [APPS / "counting.py", "--etl-secs", 4, "--timeline", timeline, "--unit-secs", 0]
    ended = submit(*options, "--master", f"local[{slots}]", *app)
    assert ended.status == 0, ended.stderr
    assert ended.result["feeds"]["train"]["rows_trained"] == [4000] * 3
    assert (ended.result["metrics"]["uneven"], ended.result["metrics"]["epochs"]) == (0, 3)
    first, *_ = (float(line.split()[0]) for line in timeline.read_text().splitlines())
    made = (tmp_path / "early" / "feed" / "train" / "manifest.json").stat().st_mtime
    assert first < made - 4  # at least one more partition was still to be made
    assert "feeding train while the training begins" in ended.stderr


def test_feed_that_fails_beside_the_training_is_the_root_cause(tmp_path):
    options = ["--json", "--run-id", "early", "--lake", tmp_path, "--overlap", "on"]
    options += ["--strategy", "single", "--master", "local[2]"]
    app = [APPS / "counting.py", "--etl-secs", 1, "--misbehave", "null"]
    ended = submit(*options, *app)
    assert ended.status != 0
    assert ended.result["error"]["role"] == "driver"
    assert "feed 'train' has nulls: column 'y' has 1" in ended.result["error"]["message"]
    assert "feed 'train' has nulls" in ended.last_words
    assert not (tmp_path / "early" / "feed" / "train" / "manifest.json").exists()


def test_two_runs_in_one_session(tmp_path):
    """What a notebook does, in a process of its own: a session, two runs, a failing third."""
    code = f"""
import sys
sys.path.insert(0, {str(APPS)!r})
from pyspark.sql import SparkSession
import tfos
from linear import Linear

spark = SparkSession.builder.master("local[3]").config("spark.tfos.numWorkers", 1).getOrCreate()
first = Linear().run(spark, num_ps=1, lake={str(tmp_path)!r}, run_id="first")
spark.conf.set("spark.tfos.strategy", "single")
second = Linear().run(spark, ["--rows", "100"], lake={str(tmp_path)!r}, run_id="second")
assert first["metrics"]["workers"] == 1, first
assert second["metrics"]["workers"] == 0, second
assert second["feeds"]["train"]["rows_trained"] == [100, 100], second
try:
    Linear().run(spark, ["--misbehave", "raise"], lake={str(tmp_path)!r}, run_id="third")
except tfos.RunFailed as error:
    assert "the moon is in the wrong place" in str(error)
    assert error.result["error"]["role"] == "chief", error.result
else:
    raise AssertionError("the third run should have failed")
try:
    Linear().run(spark, lake={str(tmp_path)!r}, run_id="second")
except tfos.LakeError as error:
    assert "second exists already" in str(error)
else:
    raise AssertionError("a run of the same application must not continue another one unasked")
try:
    Linear().run(spark, num_worker=2)
except tfos.UsageError as error:
    assert "num_worker" in str(error)
else:
    raise AssertionError("num_worker is no argument")
assert spark.range(5).count() == 5
print("ALL GOOD")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stdout.strip().endswith("ALL GOOD"), ended.stderr
    for name, status in [("first", "succeeded"), ("second", "succeeded"), ("third", "failed")]:
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["status"] == status


@pytest.mark.parametrize("launcher", ["python", "spark-submit", "pl_submit"])
def test_script_that_calls_run_itself(tmp_path, launcher):
    """A script with a custom loop; its class and a module beside it travel to the chief."""
    from tfos.runtime.java import spark_home

    script = APPS / "script.py"
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    argv = {
        "python": [sys.executable, str(script)],
        "spark-submit": [
            str(spark_home() / "bin/spark-submit"),
            "--master",
            "local[3]",
            str(script),
        ],
        "pl_submit": [sys.executable, "-m", "tfos.cli", "--num-workers", "1", str(script)],
    }[launcher]
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [*argv, "--out", str(out)], env=env, cwd=tmp_path, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads(out.read_text())
    assert result["feeds"]["train"]["rows_trained"] == [5000] * 3
    assert result["metrics"]["losses"][-1] < result["metrics"]["losses"][0]
    assert sorted(result["metrics"]["drawn"]) == [100, 100, 100, 100]
    assert (tmp_path / "tfos-runs" / result["run_id"] / "result.json").exists()


def test_killed_pl_submit_takes_its_run_with_it(tmp_path):
    process = start_submit("--run-id", "gone", "--lake", tmp_path, LINEAR, "--step-secs", "1")
    poll(lambda: "chief-0" in role_pids("gone"), 120, "the roles are up")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    poll(lambda: not role_pids("gone"), 15, "the roles have ended")
