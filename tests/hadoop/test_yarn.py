"""Runs in cluster mode on a real YARN, their lake on a real HDFS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, poll, start_submit
from yarn_runs import COUNTING, Training, lines_of, submit

from tfos.client.handle import Run
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import Storage

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
pytest_plugins = ["hadoop_fixtures"]


class TestHdfs:
    """The lake on HDFS; no YARN in it."""

    def test_a_file_that_is_replaced_is_never_seen_half(self, edge):
        lake = Storage(f"{edge.url}/replaced")
        lake.write_json("value.json", {"number": -1})
        begun, ended = threading.Event(), threading.Event()
        seen: list[int] = []

        def read() -> None:
            reader = Storage(f"{edge.url}/replaced")  # with a client of its own
            while not ended.is_set():
                seen.append(reader.read_json("value.json")["number"])
                begun.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(30)
        for number in range(50):
            lake.write_json("value.json", {"number": number})
        ended.set()
        thread.join()
        assert seen == sorted(seen)
        assert len(seen) > 20
        assert lake.list("") == ["value.json"]

    def test_the_namenode_may_be_left_out(self, edge):
        lake = Storage("hdfs:///named")
        lake.write("a/b", b"12345")
        assert Storage(f"{edge.url}/named").read("a/b") == b"12345"
        assert lake.uri("a/b") == "hdfs:///named/a/b"
        assert (lake.size("a/b"), lake.read_from("a/b", 2)) == (5, b"345")

    @pytest.mark.full
    def test_a_file_is_fetched_as_the_page_does_it(self, edge, tmp_path):
        Storage("hdfs:///named").write("model", b"12345")
        copy = tmp_path / "copy"
        hdfsn = "import sys; from hdfs_native.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", hdfsn, "get", "/named/model", str(copy)]
        subprocess.run(command, check=True, timeout=60)
        assert copy.read_bytes() == b"12345"

    def test_a_secret_is_its_owners(self, edge):
        lake = Storage(f"{edge.url}/secrets")
        lake.write("plain", b"1")
        lake.write("secret", b"2", is_secret=True)
        assert lake._fs.info(lake.path("secret"))["permission"] == 0o600
        assert lake._fs.info(lake.path("plain"))["permission"] & 0o044


def test_a_run_in_cluster_mode_is_followed_to_its_end(edge):
    """The driver's lines and the app's own, and the application's name, on the user's terminal."""
    process = submit("whole", "hdfs:///runs", args=("--epochs", 3))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert re.search(r"tfos: application: application_\d+_\d+\n", stderr)
    assert re.search(r"tfos: tracking URL: http\S+\n", stderr)
    assert "starting ps-0, chief-0, worker-0" in stderr
    assert "succeeded: hdfs://" in stderr
    assert "Application report" not in stderr
    run = Run("hdfs:///runs", "whole")
    result = run.result()
    check_counts(dict(result), worker_deaths=0)
    assert any("starting ps-0, chief-0" in line for line in run.logs("driver"))


def test_definite_ends_stay_ends(edge):
    """YARN starts a driver again that ended badly; what was asked to end does not train on."""
    lake = RunDirectory("hdfs:///runs", "killed")
    process = submit("killed", "hdfs:///runs", args=("--epochs", 10_000))
    lines, reader = lines_of(process)
    poll(lambda: any("train epoch" in line for line in lines), 240, "it trains")
    killed = subprocess.run(
        [ROOT / "bin" / "pl_submit", "kill", "killed", "--lake", "hdfs:///runs"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == 0, killed.stderr
    assert process.wait(240) == 1
    reader.join(10)
    assert "cancelled by" in lines[-1]
    assert sum("starting ps-0, chief-0" in line for line in lines) == 1
    assert lake.result()["attempts"] == 1


@pytest.mark.full
def test_a_driver_that_dies_is_continued(edge, tmp_path):
    """At once: YARN's next driver does not wait to see whether the one before writes again."""
    run = Training("mortal", tmp_path)
    run.wait_for_training()
    chief = psutil.Process(run.pid("chief-0"))
    run.driver().kill()
    poll(lambda: not chief.is_running(), 60, "the chief has ended with its driver")
    run.wait_for_training(attempts=2)
    check_counts(run.finish(), worker_deaths=0)
    assert any("pre_train() is not run again" in line for line in run.lines)
    assert not any("lives yet" in line for line in run.lines)


@pytest.mark.full
def test_files_are_of_who_submits(edge, monkeypatch):
    """Not of whom the NodeManagers run as, where nobody has to say who they are."""
    admin = Storage(f"{edge.url}/")._fs.client
    for folder in ("/user/alice", "/of-alice"):
        admin.mkdirs(folder, 0o755, True)
        admin.set_owner(folder, owner="alice")
    monkeypatch.setenv("HADOOP_USER_NAME", "alice")
    process = submit("hers", "hdfs:///of-alice", args=("--epochs", 3))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    files = Storage(f"{edge.url}/of-alice")._fs.find("/of-alice/hers", detail=True)
    assert {name: file["owner"] for name, file in files.items()} == dict.fromkeys(files, "alice")


@pytest.mark.full
def test_an_exception_of_train_ends_the_run_once(edge, tmp_path):
    app = tmp_path / "failing.py"
    app.write_text(
        "import tfos\n\nclass Failing(tfos.TFOnSparkApp):\n"
        "    def pre_train(self, spark):\n        return spark.range(100)\n"
        "    def train(self, ctx):\n        raise ValueError('no such thing')\n"
    )
    process = start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--num-executors", 1,
        "--lake", "hdfs:///runs", "--run-id", "failing", app,
    )  # fmt: skip
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "tfos: the run failed: chief 0" in stderr
    assert stderr.splitlines()[-1] == "  ValueError: no such thing"
    assert stderr.count("starting chief-0") == 1


@pytest.mark.full
def test_a_container_over_its_memory_is_the_cause(edge, tmp_path):
    app = tmp_path / "hungry.py"
    app.write_text(
        "import time\nimport numpy as np\nimport tfos\n\nclass Hungry(tfos.TFOnSparkApp):\n"
        "    def pre_train(self, spark):\n        return spark.range(100)\n"
        "    def train(self, ctx):\n        hoard = [np.ones(1 << 26) for _ in range(6)]\n"
        "        time.sleep(60)\n        return {'hoard': len(hoard)}\n"
    )
    process = start_submit(
        "--master", "yarn", "--json", "--max-restarts", 0, "--lake", "hdfs:///runs",
        "--run-id", "hungry", app,
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    message = json.loads(stdout.splitlines()[-1])["error"]["message"]
    assert re.search(
        r"killed by YARN for exceeding physical memory limits.*memoryOverhead", message
    )
    assert "warning: an executor's container has" not in stderr


@pytest.mark.full
def test_ctrl_c_leaves_the_application_and_a_second_one_ends_it(edge):
    process = submit("left", "hdfs:///runs", args=("--epochs", 10_000))
    lines, reader = lines_of(process)
    poll(lambda: any("train epoch" in line for line in lines), 240, "it trains")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    reader.join(10)
    text = "".join(lines)
    (application,) = edge.applications()
    assert f"{application}: goes on" in text
    assert "pl_submit kill left --lake hdfs:///runs" in text
    assert f"yarn application -kill {application}" in text
    assert Run("hdfs:///runs", "left").status().state == "running"
    assert Run("hdfs:///runs", "left").cancel().error["message"].startswith("cancelled by")

    process = submit("ended", "hdfs:///runs", args=("--epochs", 10_000))
    lines, reader = lines_of(process)
    poll(lambda: any("train epoch" in line for line in lines), 240, "it trains")
    os.kill(process.pid, signal.SIGINT)
    poll(lambda: any("goes on" in line for line in lines), 30, "it says so")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    assert Run("hdfs:///runs", "ended").result().error["message"].startswith("cancelled by")
    poll(lambda: not edge.applications(), 30, "YARN starts no driver of them again")


@pytest.mark.full
def test_an_app_that_cannot_be_imported_tells_why(edge, tmp_path):
    app = tmp_path / "broken.py"
    app.write_text("import no_such_module\n")
    process = start_submit(
        "--master", "yarn", "--deploy-mode", "cluster", "--json", "--num-executors", 1,
        "--lake", "hdfs:///runs", "--run-id", "broken", app,
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "No module named 'no_such_module'" in stderr.splitlines()[-1]
    assert "no_such_module" in json.loads(stdout.splitlines()[-1])["error"]["message"]
    assert any("no_such_module" in line for line in Run("hdfs:///runs", "broken").logs("driver"))


def test_without_hadoops_configuration_it_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    process = start_submit("--master", "yarn", COUNTING)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.strip().startswith("tfos: --master yarn needs the configuration")
    assert len(stderr.splitlines()) == 1


def test_jars_are_cached_outside_the_tree():
    from hadoop_jars import jars

    assert not jars().is_relative_to(Path(ROOT))
