"""Mistakes as users make them: one clear message at the end, exit status not 0, nothing left."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest
from conftest import APPS, free_port, poll, role_pids, start_submit, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks")]
LINEAR = APPS / "linear.py"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere/app.py"], ["app.py not found", "nowhere/app.py"]),
        (["--num-workrs", "2", LINEAR], ["unrecognized", "--num-workrs", "--help"]),
        (["--num-ps", "0", LINEAR], ["--num-ps", "is 0", "--strategy single"]),
        (["--num-workers", "two", LINEAR], ["--num-workers", "'two'", "whole number"]),
        (["--conf", "spark.tfos.numWorker=2", LINEAR], ["unknown", "spark.tfos.numWorker"]),
    ],
)
def test_bad_command_line_is_refused_at_once(argv, words):
    ended = submit(*argv)
    assert ended.status == 2
    assert all(word in ended.last_words for word in words), ended.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([APPS / "no_app.py"], ["no_app.py", "no subclass of tfos.TFOnSparkApp", "class App"]),
        ([APPS / "two_apps.py"], ["several", "First", "Second", "--class"]),
        ([LINEAR, "--epoch-count", "2"], ["unrecognized arguments: --epoch-count", "usage:"]),
        ([LINEAR, "--misbehave", "list"], ["pre_train() returned list", "dict of named"]),
        ([LINEAR, "--misbehave", "empty"], ["feed 'train' has no rows"]),
        ([LINEAR, "--misbehave", "null"], ["nulls: column 'y' has 4", "fillna"]),
        ([LINEAR, "--misbehave", "type"], ["column 'odd'", "map<bigint,", "cast"]),
        ([LINEAR, "--misbehave", "unpicklable"], ["self.handle", "lock", "pickled"]),
        ([LINEAR, "--misbehave", "pre_train"], ["KeyError", "no such table: sales"]),
        (["--master", "local[3]", LINEAR], ["4 slots", "has 3", "--master local[4]"]),
        (["--lake", "/proc/tfos", LINEAR], ["/proc/tfos", "--lake"]),
    ],
)
def test_mistake_before_training_ends_with_one_message(tmp_path, argv, words):
    shut = tmp_path / "shut"
    lake = [] if "--lake" in argv else ["--lake", tmp_path]
    ended = submit("--json", *lake, *argv, *(["--shut", shut] if LINEAR in argv else []))
    assert ended.status == 1
    assert all(word in ended.last_words for word in words), ended.stderr
    assert ended.result["status"] == "failed"
    assert ended.result["error"]["role"] == "driver"
    if LINEAR in argv and "--epoch-count" not in argv:
        assert shut.read_text() == "failed"


def test_unreachable_zookeeper_is_named_within_seconds(tmp_path):
    port = free_port()
    ended = submit("--zookeeper", f"127.0.0.1:{port}", "--lake", tmp_path, LINEAR, timeout_secs=60)
    assert ended.status == 1
    assert f"no ZooKeeper server answers at 127.0.0.1:{port}" in ended.last_words
    assert "--zookeeper" in ended.last_words


@pytest.mark.parametrize(
    ("misbehave", "words"),
    [
        ("raise", ["chief 0", "ValueError: the moon is in the wrong place", "linear.py"]),
        ("exit", ["chief 0", "exited with status 7"]),
    ],
)
def test_failing_train_is_the_root_cause(tmp_path, misbehave, words):
    ended = submit("--json", "--lake", tmp_path, LINEAR, "--misbehave", misbehave)
    assert ended.status == 1
    assert all(word in ended.last_words for word in words), ended.stderr
    error = ended.result["error"]
    assert (error["role"], error["index"]) == ("chief", 0)
    stored = next(tmp_path.glob("*/result.json"))
    assert json.loads(stored.read_text()) == ended.result


def test_crashed_worker_is_the_root_cause_and_not_what_follows(tmp_path):
    process = start_submit(
        "--json", "--run-id", "crash", "--lake", tmp_path, LINEAR,
        "--epochs", "1000", "--step-secs", "0.05",
    )  # fmt: skip
    poll(lambda: list(tmp_path.glob("crash/checkpoints/*/COMMIT")), 120, "the run trains")
    os.kill(role_pids("crash")["worker-1"], signal.SIGSEGV)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    error = json.loads(stdout.splitlines()[-1])["error"]
    assert (error["role"], error["index"]) == ("worker", 1)
    assert "was killed by SIGSEGV" in error["message"]
    assert "worker 1 on" in stderr.rpartition("the run failed")[2]


def test_existing_run_id_needs_resume(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "spec.json").write_text("{}")
    ended = submit("--run-id", "taken", "--lake", tmp_path, LINEAR)
    assert ended.status == 1
    assert "taken exists already" in ended.last_words
    assert "--resume" in ended.last_words
    missing = submit("--run-id", "absent", "--resume", "--lake", tmp_path, LINEAR)
    assert missing.status == 1
    assert "no run absent" in missing.last_words


def test_roles_that_do_not_come_up_in_time_are_listed(tmp_path):
    ended = submit("--start-timeout-secs", "1", "--lake", tmp_path, LINEAR)
    assert ended.status == 1
    words = ["not all roles came up within 1 s", "ps-0", "asks for 4 slots", "has 4"]
    assert all(word in ended.last_words for word in words), ended.stderr


@pytest.mark.parametrize(
    ("phase", "signum"),
    [("etl", signal.SIGINT), ("start", signal.SIGTERM), ("train", signal.SIGINT)],
)
def test_interrupt_ends_everything_within_seconds(tmp_path, phase, signum):
    begun = tmp_path / "begun"
    app = [LINEAR, "--epochs", "1000", "--step-secs", "0.05", "--begun", begun]
    process = start_submit(
        "--run-id", "stopped", "--lake", tmp_path, *app,
        *(["--misbehave", "slow"] if phase == "etl" else []),
    )  # fmt: skip
    reached = {
        "etl": begun.exists,
        "start": lambda: role_pids("stopped"),
        "train": lambda: list(tmp_path.glob("stopped/checkpoints/*/COMMIT")),
    }[phase]
    poll(reached, 120, f"the run reaches {phase}")
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.strip().splitlines()[-1].endswith("interrupted")
    assert json.loads((tmp_path / "stopped/result.json").read_text())["status"] == "failed"


def test_killed_supervisor_fails_the_run_and_leaves_no_child(tmp_path):
    process = start_submit(
        "--json", "--run-id", "orphan", "--lake", tmp_path, LINEAR,
        "--epochs", "1000", "--step-secs", "0.05",
    )  # fmt: skip
    poll(lambda: list(tmp_path.glob("orphan/checkpoints/*/COMMIT")), 120, "the run trains")
    worker = role_pids("orphan")["worker-1"]
    psutil.Process(worker).parent().kill()
    poll(lambda: "worker-1" not in role_pids("orphan"), 10, "its TensorFlow process has ended")
    stdout, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    error = json.loads(stdout.splitlines()[-1])["error"]
    assert (error["role"], error["index"]) == ("worker", 1)
    assert "Spark" in error["message"] or "supervisor is gone" in error["message"]
