"""pl_submit in cluster mode, with a script in spark-submit's place."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest
from conftest import ROOT, poll

from tfos.cli.cluster_mode import Deaths
from tfos.cli.followed import Submitted
from tfos.driver.lease import Lease
from tfos.fault.failures import Failure
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory
from tfos.spec.job import JobSpec
from tfos.spec.result import INTERRUPTED, JVM_GONE, Result
from tfos.spec.times import TIMES

pytestmark = pytest.mark.timeout(60)

REPORT = """26/11/29 10:00:00 INFO Client: Submitted application application_1_0007
26/11/29 10:00:01 INFO Client: Application report for application_1_0007 (state: ACCEPTED)
26/11/29 10:00:01 INFO Client:
\t client token: N/A
\t tracking URL: http://rm:8088/proxy/application_1_0007/
"""


DEPLOYED = (
    "INFO LoggingPodStatusWatcherImpl: Waiting for application app with application ID spark-1 and"
    " submission ID team:app-1-driver to finish...\n"
)


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Starts pl_submit; spark-submit says REPORT and then does what `script` says."""
    home = tmp_path / "spark"
    (home / "bin").mkdir(parents=True)
    (home / "jars").mkdir()
    app = tmp_path / "app.py"
    app.write_text("")
    started = []

    def start(script, *options, master="yarn", said=None):
        fake = home / "bin" / "spark-submit"
        killed = f'case "$*" in *--kill*) echo "$@" >>{tmp_path}/killed; exit;; esac'
        fake.write_text(f"#!/bin/sh\n{killed}\ncat >&2 <<'END'\n{said or REPORT}END\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        env = {**os.environ, "SPARK_HOME": str(home), "HADOOP_CONF_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "tfos.cli", "--master", master, "--deploy-mode", "cluster"]
        command += [*options, "--lake", str(tmp_path / "lake"), "--run-id", "r", str(app)]
        process = subprocess.Popen(
            command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def lake(tmp_path):
    return RunDirectory(str(tmp_path / "lake"), "r")


def test_the_driver_is_followed_and_its_result_is_ours(submit, lake):
    lake.write(DRIVER_LOG, b"of the driver before\n")
    error = {"role": "chief", "index": 0, "host": "h", "message": "ValueError: x", "traceback": ""}
    result = json.dumps(Result("r", "failed", error).as_json())
    process = submit(
        f"sleep 1; echo 'epoch 1' >> {lake.path(DRIVER_LOG)}; echo '{result}' >"
        f" {lake.path('result.json')}; exit 1"
    )
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "tfos: application: application_1_0007\n" in stderr
    assert "tfos: tracking URL: http://rm:8088/proxy/application_1_0007/\n" in stderr
    assert "\nepoch 1\n" in stderr
    assert "of the driver before" not in stderr
    assert "Application report" not in stderr
    assert stderr.splitlines()[-1] == "tfos: the run failed: chief 0 on h: ValueError: x"


def test_what_yarn_says_of_an_end_without_a_result_is_the_cause(submit):
    said = "Application application_1_0007 was killed by user me at 10.0.0.7"
    process = submit(f"printf '\\t diagnostics: N/A\\n\\t diagnostics: {said}\\n' >&2; exit 1")
    _, stderr = process.communicate()
    assert process.returncode == 1
    words = f"tfos: the run failed: driver 0 on [^:]+: the run left no result; YARN says: {said}"
    assert re.fullmatch(words, stderr.splitlines()[-1])


def test_what_spark_submit_says_is_shown_where_there_is_no_result(submit):
    process = submit("echo 'Exception: no such queue' >&2; exit 3")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "\nException: no such queue\n" in stderr
    assert "spark-submit exited with status 3 and the run left no result" in stderr


def test_the_result_of_an_earlier_submission_is_not_ours(submit, lake):
    lake.write_result(Result("r", "succeeded").as_json())
    process = submit(f"echo 'run r exists already' >> {lake.path(DRIVER_LOG)}; exit 1")
    lake.write(DRIVER_LOG, b"")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "the run left no result" in stderr.splitlines()[-1]


def test_app_that_fails_after_its_run_has_failed(submit, lake):
    result = json.dumps(Result("r", "succeeded").as_json())
    lake.write(DRIVER_LOG, b"")
    process = submit(f"echo '{result}' > {lake.path('result.json')}; exit 1")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "app.py failed after its run had succeeded" in stderr.splitlines()[-1]


@pytest.fixture
def beating(lake, monkeypatch):
    """A driver of the run that lives, of the submission "mine"."""
    monkeypatch.setattr(TIMES, "lease_secs", 0.05)
    lease = Lease(lake, "mine")
    lease.take()
    yield lake.lease()
    lease.release()


@pytest.mark.parametrize(
    ("given", "words"), [("mine", "submission mine (run r) has"), ("other", "run r has")]
)
def test_a_run_that_has_a_driver_gets_no_second_one(submit, lake, beating, given, words):
    process = submit("exit 1", "--submission", given)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.startswith(f"tfos: {words} a driver that lives, process {beating.pid} on host ")
    assert f"pl_submit kill r --lake {lake.url}" in stderr
    assert len(stderr.splitlines()) == 1


def test_ctrl_c_before_there_is_an_application(submit, lake, monkeypatch):
    monkeypatch.setattr("test_cluster_mode.REPORT", "uploading\n")
    process = submit("exec sleep 50")
    while "look at it" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "no application had been submitted" in rest
    assert "goes on" not in rest


def test_ctrl_c_leaves_the_application(submit, lake):
    lake.write(DRIVER_LOG, b"")
    process = submit(f"echo trains >> {lake.path(DRIVER_LOG)}; exec sleep 50")
    lines = []
    poll(lambda: lines.append(process.stderr.readline()) or "trains\n" in lines, 30, "it trains")
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "tfos: application_1_0007: goes on; a second Ctrl-C within 3 s ends it" in rest
    assert f"pl_submit kill r --lake {lake.url}" in rest
    assert "yarn application -kill application_1_0007" in rest
    assert "failed" not in rest


@pytest.fixture
def submit_to_pods(submit, lake, tmp_path):
    """As submit; `ends` are what drivers leave in the lake, one after the other."""
    lake.write(DRIVER_LOG, b"")

    def start(*ends, options=()):
        begun = json.dumps({**JobSpec.of().as_json(), "submission": "mine"})
        for number, result in enumerate(ends):
            (tmp_path / f"end{number}").write_text(json.dumps(result.as_json()))
        script = f"""cd {tmp_path}
            number=$(ls | grep -c ^driver); : > driver$number
            echo '{begun}' > {lake.path("spec.json")}
            cp end$number {lake.path("result.json")}"""
        options = ("--submission", "mine", *options)
        return submit(script, *options, master="k8s://https://api:6443", said=DEPLOYED)

    return start


def died(words=INTERRUPTED):
    return Result("r", "failed", Failure.of_driver(words).as_error())


class TestPodsOfDrivers:
    def test_one_that_died_is_followed_by_another(self, submit_to_pods, tmp_path):
        process = submit_to_pods(died(), died(JVM_GONE), Result("r", "succeeded"))
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        assert stderr.count("its pod ended before the run did; another one continues it") == 2
        assert "2 of 10 without a new checkpoint" in stderr
        assert stderr.count("tfos: application: team:app-1-driver") == 3
        killed = (tmp_path / "killed").read_text().splitlines()
        assert len(killed) == 3
        assert all("--kill team:app-1-driver" in words for words in killed)

    @pytest.mark.parametrize("has_told", [True, False])
    def test_of_one_that_leaves_no_result_only_what_tells_why_stays(
        self, submit, lake, tmp_path, has_told
    ):
        uploaded = tmp_path / "lake" / ".submitted-r" / "spark-upload-1"
        lake.write(DRIVER_LOG, b"")
        told = f"echo 'no such table' >> {lake.path(DRIVER_LOG)}" if has_told else ":"
        phase = "INFO LoggingPodStatusWatcherImpl: Application status for spark-1 (phase: Failed)\n"
        process = submit(
            f"mkdir -p {uploaded}; : > {uploaded}/app.py; {told}; exit 1",
            master="k8s://https://api:6443", said=DEPLOYED + phase,
        )  # fmt: skip
        _, stderr = process.communicate()
        assert process.returncode == 1
        assert "the run left no result" in stderr.splitlines()[-1]
        assert not uploaded.parent.exists()
        assert (tmp_path / "killed").exists() == has_told
        assert ("kubectl logs app-1-driver -n team" in stderr) == (not has_told)
        assert ("kubectl delete pod app-1-driver -n team" in stderr) == (not has_told)

    def test_without_an_application_nothing_stays(self, submit, tmp_path):
        uploaded = tmp_path / "lake" / ".submitted-r"
        process = submit(
            f"mkdir -p {uploaded}; exit 1", master="k8s://https://api:6443", said="no rights\n"
        )
        assert "no rights" in process.communicate()[1]
        assert not uploaded.exists()

    def test_one_that_may_be_about_to_start_keeps_what_it_starts_from(self, submit, tmp_path):
        uploaded = tmp_path / "lake" / ".submitted-r"
        script = f"mkdir -p {uploaded}; kill -9 $$"
        process = submit(script, master="k8s://https://api:6443", said=DEPLOYED)
        _, stderr = process.communicate()
        assert uploaded.exists()
        assert "kubectl delete pod app-1-driver -n team" in stderr
        assert not (tmp_path / "killed").exists()

    def test_a_definite_end_stays_one(self, submit_to_pods):
        process = submit_to_pods(died("ValueError: x"), Result("r", "succeeded"))
        _, stderr = process.communicate()
        assert process.returncode == 1
        assert stderr.splitlines()[-1].endswith("ValueError: x")
        assert "another one" not in stderr

    def test_not_more_often_than_failures_may_be(self, submit_to_pods):
        process = submit_to_pods(died(), died(), options=("--max-restarts", "1"))
        _, stderr = process.communicate()
        assert process.returncode == 130
        assert stderr.count("another one continues it, 1 of 1") == 1

    def test_those_that_come_to_a_new_checkpoint_may_be_many(self):
        deaths = Deaths(2)
        assert deaths.another(None)
        assert deaths.another(None)
        assert all(deaths.another(f"step-{step}") for step in range(5))
        assert deaths.another("step-4")
        assert not deaths.another("step-4")

    def test_of_another_submissions_run_nothing_is_continued(self, submit_to_pods):
        process = submit_to_pods(
            died(), Result("r", "succeeded"), options=("--submission", "other")
        )
        _, stderr = process.communicate()
        assert process.returncode == 130
        assert "another one" not in stderr

    def test_one_that_does_not_start_is_told_of(self, monkeypatch):
        monkeypatch.setattr("tfos.cli.followed._PENDING_SECS", 0.0)
        told = []
        submitted = Submitted(False, lambda what, value: told.append(value))
        status = b"INFO LoggingPodStatusWatcherImpl: Application status for spark-1 (phase: %s)\n"
        with open(os.dup(submitted.stream), "wb", buffering=0) as source:
            submitted.begin()
            source.write(DEPLOYED.encode() + 2 * (status % b"Pending") + status % b"Running")
            source.write(status % b"Pending")
        submitted.close()
        assert told == ["team:app-1-driver", "kubectl describe pod app-1-driver -n team"]
