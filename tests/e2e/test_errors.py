"""Mistakes as users make them: one clear message at the end, exit status not 0, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import APPS, ROOT, free_port, poll, role_pids, start_submit, submit

from tfos.client.control import read_status
from tfos.driver.display import describe_progress
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.spec import times as times_module

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks")]
LINEAR = APPS / "linear.py"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere/app.py"], ["app.py not found", "nowhere/app.py"]),
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
        ([LINEAR, "--misbehave", "pre_train"], ["KeyError", "no such table: sales"]),
        (
            ["--master", "local[2]", "--num-workers", 1, LINEAR],
            ["3 slots", "has 2", "--master local[3]"],
        ),
    ],
)
def test_mistake_before_training_ends_with_one_message(tmp_path, argv, words):
    shut = tmp_path / "shut"
    ended = submit(
        "--json", "--lake", tmp_path, *argv, *(["--shut", shut] if LINEAR in argv else [])
    )
    assert ended.status == 1
    assert all(word in ended.last_words for word in words), ended.stderr
    assert ended.result["status"] == "failed"
    assert ended.result["error"]["role"] == "driver"
    if LINEAR in argv:
        assert shut.read_text() == "failed"


# what the app is given, run()'s arguments; the class of the error and words in it
MISTAKES = {
    "argument": (["--epoch-count", "2"], {}, "UsageError", ["arguments: --epoch-count", "usage:"]),
    "list": (["--misbehave", "list"], {}, "AppError", ["returned list", "dict of named"]),
    "empty": (["--misbehave", "empty"], {}, "FeedError", ["feed 'train' has no rows"]),
    "null": (["--misbehave", "null"], {}, "FeedError", ["column 'y' has 4", "fill={'y': ...}"]),
    "type": (
        ["--misbehave", "type"], {}, "FeedError", ["'odd'", "interval day to second", "cast"]
    ),
    "unpicklable": (["--misbehave", "unpicklable"], {}, "AppError", ["self.handle", "pickled"]),
    "lake": ([], {"lake": "/proc/tfos"}, "LakeError", ["/proc/tfos", "--lake"]),
    "absent": ([], {"run_id": "absent", "resume": True}, "LakeError", ["no run absent"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """What became of each of MISTAKES, all made in one session; and the lake."""
    lake = tmp_path_factory.mktemp("lake")
    requests = []
    for name, (args, job, _, _) in MISTAKES.items():
        job = {"lake": str(lake), "run_id": name, "num_workers": 1, **job}
        shut = ["--shut", str(lake / f"{name}.shut")]
        requests.append({"file": str(LINEAR), "app": "Linear", "args": args + shut, "job": job})
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "in_session.py"), "local[3]"],
        input=json.dumps(requests), env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = map(json.loads, ended.stdout.splitlines()[-len(MISTAKES) :])
    return dict(zip(MISTAKES, said, strict=True)), lake


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_session_raises_one_message(mistakes, name):
    said, lake = mistakes
    _, _, kind, words = MISTAKES[name]
    assert said[name]["kind"] == kind, said[name]
    assert all(word in said[name]["error"] for word in words), said[name]
    if name != "argument":  # of which --shut is one
        assert (lake / f"{name}.shut").read_text() == "failed"


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
        # once is tried again: it may have been an accident
        ("exit", ["chief 0", "exited with status 7", "twice, with no checkpoint in between"]),
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


def test_failures_without_progress_end_the_run_with_the_first_one_first(tmp_path):
    process = start_submit(
        "--json", "--run-id", "crash", "--lake", tmp_path, "--max-restarts", 1, "--num-workers", 2,
        "--checkpoint-secs", 1000, LINEAR, "--rows", 400_000, "--step-secs", "0.05",
    )  # fmt: skip
    lake = RunDirectory(str(tmp_path), "crash")
    trains = "train epoch 1"
    for task in ("worker-1", "worker-0"):
        poll(lambda: lake.exists("registry.json") and trains in progress(lake), 120, "it trains")
        failures = len(read_status(lake).failures)
        os.kill(role_pids("crash")[task], signal.SIGKILL)
        if task == "worker-1":
            poll(lambda n=failures: len(read_status(lake).failures) > n, 30, "it is noticed")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    result = json.loads(stdout.splitlines()[-1])
    assert (result["error"]["role"], result["error"]["index"]) == ("worker", 1)
    assert "was killed by SIGKILL" in result["error"]["message"]
    assert result["restarts"] == {"ps": 0, "chief": 0, "worker": 1}
    last_words = stderr.rpartition("the run failed")[2]
    assert "worker 1 on" in last_words
    assert "--max-restarts 1" in last_words
    assert last_words.index("1. worker-1 on") < last_words.index("2. worker-0 on")


def progress(lake):
    return describe_progress(read_status(lake).progress or {})


def test_run_whose_driver_lives_is_left_to_it_and_one_whose_driver_died_goes_on(
    tmp_path, monkeypatch
):
    """What resumes it, or repeats its submission, is refused while it lives."""
    times = json.loads(os.environ.get(times_module.ENV) or "{}")
    monkeypatch.setenv(times_module.ENV, json.dumps({**times, "lease_ending_secs": 2}))
    lake = RunDirectory(str(tmp_path), "lives")
    job = ["--run-id", "lives", "--lake", tmp_path, "--strategy", "single"]
    app = [LINEAR, "--epochs", "1000", "--step-secs", "0.05"]

    def start() -> tuple[subprocess.Popen[str], DriverLease]:
        process = start_submit(*job, "--submission", "mine", *app)
        poll(lambda: lake.lease(), 60, "it has a driver")
        trains = "train epoch 1"
        poll(lambda: lake.exists("registry.json") and trains in progress(lake), 120, "it trains")
        return process, lake.lease()

    first, driver = start()
    known = lake.registry()
    for option in (["--resume"], ["--submission", "mine"]):
        late = submit(*job, *option, *app)
        assert late.status == 1
        assert f"process {driver.pid} on host {driver.host}" in late.last_words
    assert "submission mine (run lives)" in late.last_words
    assert (lake.lease().token, lake.registry()) == (driver.token, known)
    assert first.poll() is None
    assert lake.result() is None
    os.kill(driver.pid, signal.SIGKILL)
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == 137
    assert "the driver was killed by SIGKILL" in stderr.splitlines()[-1]
    again, driver = start()
    os.kill(psutil.Process(driver.pid).ppid(), signal.SIGKILL)
    _, stderr = again.communicate(timeout=60)
    assert again.returncode == 137
    assert "the driver's JVM has ended" in stderr.splitlines()[-1]
    ended = submit(*job, "--submission", "mine", LINEAR, "--epochs", "1")
    assert ended.status == 0, ended.stderr
    assert lake.lease() is None


def test_existing_run_id_needs_resume(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "spec.json").write_text("{}")
    ended = submit("--run-id", "taken", "--lake", tmp_path, LINEAR)
    assert ended.status == 1
    assert "taken exists already" in ended.last_words
    assert "--resume" in ended.last_words


def test_roles_that_do_not_come_up_in_time_are_listed(tmp_path):
    # each imports TensorFlow first, which takes longer
    slow = ["--fork", "off", "--start-timeout-secs", 1]
    ended = submit("--num-workers", 1, *slow, "--lake", tmp_path, LINEAR)
    assert ended.status == 1
    words = ["not all roles came up within 1 s", "ps-0", "asks for 3 slots", "has 3"]
    assert all(word in ended.last_words for word in words), ended.stderr


@pytest.mark.parametrize(
    ("phase", "signum"),
    [("etl", signal.SIGINT), ("start", signal.SIGTERM), ("train", signal.SIGINT)],
)
def test_interrupt_ends_everything_within_seconds(tmp_path, phase, signum):
    begun = tmp_path / "begun"
    app = [LINEAR, "--epochs", "1000", "--step-secs", "0.05", "--begun", begun]
    process = start_submit(
        *(["--num-workers", 1] if phase == "train" else []),
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


@pytest.mark.parametrize("end", ["Ctrl-C", "failure"])
def test_run_that_ends_does_not_wait_for_the_feed_beside_it(tmp_path, end):
    """Of the feed's eight partitions, of two minutes each, the first is under way."""
    options = ["--run-id", "early", "--lake", tmp_path, "--overlap", "on", "--max-restarts", 0]
    app = [APPS / "counting.py", "--etl-secs", 120]
    process = start_submit(*options, "--strategy", "single", *app)
    state = RunDirectory(str(tmp_path), "early")
    poll(lambda: state.exists("feed/train/arrived.json"), 60, "the feed can be read")
    chief = poll(lambda: role_pids("early").get("chief-0"), 60, "the chief is up")
    begun = {"phase": "train() begins"}
    poll(lambda: begun.items() <= (read_status(state).progress or {}).items(), 60, "train() begins")
    if end == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(chief, signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (130 if end == "Ctrl-C" else 1)
    words = "interrupted" if end == "Ctrl-C" else "was killed by SIGKILL"
    assert words in stderr.rpartition("tfos: ")[2], stderr
    assert not state.exists("feed/train/manifest.json")
