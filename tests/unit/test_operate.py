"""pl_submit status, logs and cancel: on plain dicts, on real files, and against real ZooKeeper."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tfos.cli import commands
from tfos.cli.render import print_status
from tfos.client import control, logs
from tfos.client.logs import Selection
from tfos.client.status import (
    AttemptNodes,
    dead_status,
    finished_status,
    live_status,
)
from tfos.errors import LakeError, RegistryError, UsageError
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys
from tfos.runtime.registry import Registry, RegistryAddress, prepare
from tfos.spec.job import JobSpec

pytestmark = pytest.mark.serial
DEADLINE_SECS = 20.0
_numbers = itertools.count()

PROGRESS = {
    "phase": "train", "epoch": 2, "epochs": 5, "rows_done": 12_000, "rows": 1_000_000,
    "rows_per_sec": 34_567, "metrics": {"loss": 0.5},
}  # fmt: skip


def member(pid, life=1, host="h"):
    return {"host": host, "address": f"{host}:1", "pid": pid, "life": life}


def failure(task="worker-1", time=1.0, kind="signal", message="was ended by SIGKILL"):
    role, _, index = task.partition("-")
    return {
        "role": role, "index": int(index), "host": "h", "kind": kind, "message": message,
        "traceback": "", "time": time,
    }  # fmt: skip


ERROR = {"role": "worker", "index": 1, "host": "h", "message": "was killed\nso", "traceback": ""}
RESULT = {
    "run_id": "r", "status": "failed", "error": ERROR, "attempts": 2,
    "metrics": {"loss": 0.25}, "model": "/lake/r/model", "seconds": {"total": 12.5},
    "roles": {
        "worker-1": {"host": "h", "pid": 13, "restarts": 3},
        "chief-0": {"host": "h", "pid": 11, "restarts": 0},
    },
    "failures": [failure(time=9.0), failure("ps-0", time=5.0)],
    "checkpoints": {"saved": 7, "step": 70, "stall_secs": 0.1, "save_secs": 0.2},
}  # fmt: skip


def live(*attempts, **options):
    """The Status of a live run, its attempts numbered from 1."""
    return live_status("r", "/lake", dict(enumerate(attempts, 1)), None, **options)


def states(status):
    return {role.task: role.state for role in status.roles}


class TestLiveStatus:
    LIVES = {"chief-0": 1, "ps-0": 1, "worker-0": 1, "worker-1": 1}  # noqa: RUF012
    MEMBERS = {name: member(n) for n, name in enumerate(LIVES, 11)}  # noqa: RUF012
    READY = {"ps-0": 1, "worker-0": 1, "worker-1": 1}  # noqa: RUF012

    def nodes(self, **changes):
        whole = {
            "members": self.MEMBERS, "ready": self.READY, "lives": self.LIVES,
            "progress": PROGRESS,
        }  # fmt: skip
        return AttemptNodes(**{**whole, **changes})

    def test_before_the_first_attempt(self):
        status = live()
        assert status.state == "running"
        assert status.attempt is None
        assert status.roles == ()
        assert status.progress == {"phase": "the roles are to start", "secs": None}

    def test_what_the_driver_is_at(self):
        phase = {"text": "feeding train", "secs": 3.0}
        expected = {"phase": "feeding train", "secs": 3.0}
        assert live(phase=phase).progress == expected
        # between two attempts, too
        assert live(self.nodes(), phase=phase).progress == expected

    @pytest.mark.parametrize(
        ("nodes", "text"),
        [
            ({"members": {}, "ready": {}}, "0 of 4 roles are up; waiting for"),
            ({"ready": {"ps-0": 1, "worker-1": 1}}, "2 of 4 roles are up; waiting for"),
            ({}, "3 of 4 roles are up; waiting for chief-0"),
        ],
    )
    def test_which_roles_are_missing(self, nodes, text):
        status = live(self.nodes(progress=None, **nodes), phase={"text": "", "secs": 5.0})
        assert status.progress["secs"] == 5.0
        assert status.progress["phase"].startswith(text)
        missing = {name for name, state in states(status).items() if state != "up"}
        assert set(status.progress["phase"].partition("for ")[2].split(", ")) == missing

    def test_training_says_more_than_the_phase(self):
        assert live(self.nodes(), phase={"text": "", "secs": 5.0}).progress == PROGRESS

    def test_training(self):
        status = live(self.nodes())
        assert states(status) == {
            "chief-0": "training", "ps-0": "up", "worker-0": "up", "worker-1": "up",
        }  # fmt: skip
        assert status.progress == PROGRESS
        (chief, *_) = status.roles
        assert (chief.host, chief.pid, chief.restarts) == ("h", 11, 0)

    def test_tasks_are_in_order_of_their_numbers(self):
        lives = {f"worker-{i}": 1 for i in range(11)}
        status = live(self.nodes(lives=lives, members={}))
        assert [role.task for role in status.roles] == [f"worker-{i}" for i in range(11)]

    def test_nobody_is_there_yet(self):
        status = live(AttemptNodes(lives=self.LIVES))
        assert set(states(status).values()) == {"starting"}
        assert {(role.host, role.pid) for role in status.roles} == {(None, None)}

    def test_starting_until_ready(self):
        found = states(live(self.nodes(ready={"ps-0": 1}, progress=None)))
        assert found["ps-0"] == "up"
        assert found["worker-0"] == "starting"
        assert found["chief-0"] == "starting"

    def test_chief_is_up_before_it_has_rows(self):
        nodes = self.nodes(progress={"phase": "train() begins"})
        assert states(live(nodes))["chief-0"] == "up"

    def test_process_died_and_waits_for_its_next_life(self):
        nodes = self.nodes(failures={"worker-1.1": failure()})
        assert states(live(nodes))["worker-1"] == "failed"

    @pytest.mark.parametrize(
        ("member_life", "ready_life", "state"),
        [(1, 1, "starting"), (2, 1, "starting"), (2, 2, "up")],
    )
    def test_second_life(self, member_life, ready_life, state):
        status = live(
            self.nodes(
                lives={**self.LIVES, "worker-1": 2},
                members={**self.MEMBERS, "worker-1": member(99, member_life)},
                ready={**self.READY, "worker-1": ready_life},
                failures={"worker-1.1": failure()},
            )
        )
        assert states(status)["worker-1"] == state
        assert status.roles[-1].restarts == 1

    @pytest.mark.parametrize(
        "changes",
        [{}, {"progress": None, "failures": {"worker-1.1": failure()}}],
        ids=["while training", "at the start"],
    )
    def test_supervisor_is_gone(self, changes):
        members = {name: one for name, one in self.MEMBERS.items() if name != "worker-1"}
        assert states(live(self.nodes(members=members, **changes)))["worker-1"] == "gone"

    def test_newest_attempt_counts_and_restarts_add_up(self):
        first = self.nodes(
            lives={**self.LIVES, "worker-1": 3},
            failures={"worker-1.2": failure(time=2.0), "worker-1.1": failure(time=1.0)},
        )
        second = self.nodes(
            lives={**self.LIVES, "worker-1": 2},
            members={**self.MEMBERS, "worker-1": member(99, 2)},
            failures={"worker-1.1": failure(time=3.0)},
        )
        status = live(first, second)
        assert status.attempt == 2
        assert status.roles[-1].restarts == 3
        assert status.roles[-1].pid == 99
        assert [one.time for one in status.failures] == [1.0, 2.0, 3.0]

    def test_who_asked_to_end_it_is_said(self):
        assert "me@here" in live(self.nodes(), killed_by="me@here").message


class TestFinishedStatus:
    def test_whole_result(self):
        status = finished_status("r", "/lake", RESULT, {"step": 60, "age_secs": 5.0})
        assert (status.state, status.attempt) == ("failed", 2)
        assert status.message == "worker 1 on h: was killed"
        assert states(status) == {"chief-0": "ended", "worker-1": "failed"}
        assert [role.restarts for role in status.roles] == [0, 3]
        assert [one.task for one in status.failures] == ["ps-0", "worker-1"]
        assert status.checkpoint["step"] == 60
        assert status.checkpoint["saved"] == 7
        assert status.metrics == {"loss": 0.25}

    def test_result_of_an_older_version(self):
        old = {key: RESULT[key] for key in ("run_id", "status", "error", "attempts")}
        status = finished_status("r", "/lake", old, None)
        assert status.roles == ()
        assert status.checkpoint is None
        assert [one.message for one in status.failures] == [ERROR["message"]]

    def test_success(self):
        result = {**RESULT, "status": "succeeded", "error": None, "failures": []}
        status = finished_status("r", "/lake", result, None)
        assert (status.state, status.message, status.failures) == ("succeeded", "", ())
        assert status.checkpoint["step"] == 70


class TestDeadStatus:
    def test_tells_how_to_go_on(self):
        status = dead_status("r", "/my lake", "its driver is gone", ["--zookeeper", "zk:1/c"], None)
        assert status.state == "dead"
        assert status.message == (
            "its driver is gone; continue the run with: pl_submit --resume --run-id r"
            " --lake '/my lake' --zookeeper zk:1/c app.py"
        )


class TestText:
    def text(self, status, capsys):
        print_status(status)
        return capsys.readouterr().out

    def test_nothing_is_cut_where_there_is_no_terminal(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        host, message = "h" * 150, "m" * 300
        nodes = AttemptNodes(
            members={"worker-0": member(12345, host=host)},
            lives={"worker-0": 2},
            failures={"worker-0.1": failure("worker-0", message=f"{message}\nsecond line")},
            progress=PROGRESS,
        )
        lines = self.text(live(nodes), capsys).splitlines()
        (role,) = [line for line in lines if line.startswith("worker-0")]
        assert role.split() == ["worker-0", "starting", host, "12345", "1"]
        assert sum(message in line for line in lines) == 1
        assert not any(line.endswith(" ") for line in lines)
        assert not any("second line" in line or "\x1b" in line for line in lines)

    def test_each_fact_has_its_line(self, capsys):
        checkpoint = {"step": 1200, "age_secs": 200.0}
        text = self.text(live_status("r", "/lake", {1: AttemptNodes()}, checkpoint, "me"), capsys)
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
        facts = {words[0]: words[1].rstrip() for words in lines if len(words) == 2}
        assert facts["run"] == "r"
        assert facts["state"] == "running, attempt 1"
        assert facts["lake"] == "/lake"
        assert facts["checkpoint"] == "step 1,200, 3 min ago"
        assert "me asked to end it" in text

    def test_for_how_long_something_is_waited_for(self, capsys):
        status = live(phase={"text": "pre_train()", "secs": 130.0})
        assert "pre_train(), for 2 min" in self.text(status, capsys)
        assert "the roles are to start\n" in self.text(live(), capsys)

    def test_brackets_are_kept(self, capsys):
        result = {**RESULT, "failures": [failure(message="[bold]a[0][/bold] :smile:")]}
        text = self.text(finished_status("r", "/lake", result, None), capsys)
        assert "[bold]a[0][/bold] :smile:" in text
        assert "step 70, 7 saved in all" in text
        assert "loss 0.25" in text


@pytest.fixture
def lake(tmp_path):
    return RunDirectory(str(tmp_path / "lake"), "r")


@pytest.fixture
def started(lake):
    """The lake of a run that has been started, with a ZooKeeper that is not there any more."""
    lake.write_json("spec.json", {**JobSpec.of(run_id="r").as_json()})
    with socket.socket() as held:  # bound, but it does not listen
        held.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{held.getsockname()[1]}"
        lake.write_json("registry.json", {"hosts": hosts, "user": "u", "password": "p"})
        yield lake


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr(control, "_ENDING_SECS", 0.0)


@pytest.fixture
def run(lake, capsys):
    """Runs a command with --lake; returns its exit status, stdout and stderr."""

    def call(command, *argv, run_id="r"):
        status = commands.main([command, run_id, "--lake", lake.url, *map(str, argv)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


class TestCommandLine:
    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            (["status"], "RUN_ID"),
            (["status", ""], "RUN_ID"),
            (["status", "a/b"], "'a/b'"),
            (["status", "r", "--lake", ""], "--lake"),
            (["status", "r", "-f"], "-f"),
            (["cancel", "r", "worker:1"], "worker:1"),
            (["cancel", "r", "--json"], "--json"),
            (["kill", "r", "--json"], "--json"),
            (["logs", "r", "worker:x"], "'worker:x'"),
            (["logs", "r", "driver:0"], "'driver:0'"),
            (["logs", "r", "driver", "--attempt", "1"], "--attempt"),
            (["logs", "r", "--attempt", "0"], "'0'"),
            (["logs", "r", "--attempt", "two"], "'two'"),
        ],
    )
    def test_bad_usage(self, argv, told, capsys):
        assert commands.main(argv) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("tfos: ")
        assert told in said.err

    @pytest.mark.parametrize("command", commands.COMMANDS)
    def test_help(self, command, capsys):
        with pytest.raises(SystemExit) as caught:
            commands.main([command, "--help"])
        assert caught.value.code == 0
        assert "--lake" in capsys.readouterr().out

    @pytest.mark.parametrize("command", commands.COMMANDS)
    def test_unknown_run_names_those_there_are(self, command, lake, run):
        for n in range(12):
            RunDirectory(lake.url, f"other-{n:02d}").write_json("spec.json", {})
        status, out, err = run(command, run_id="nightly")
        assert (status, out) == (1, "")
        assert "no run nightly" in err
        assert lake.url in err
        assert "other-00" in err
        assert "and 2 more" in err

    def test_no_run_at_all(self, run):
        assert "no run at all" in run("status")[2]

    def test_run_that_is_about_to_start(self, lake, run):
        marker = lake.check_writable()
        os.utime(lake.path(marker), (time.time() - 300,) * 2)
        status, out, err = run("status")
        assert (status, err) == (0, "")
        assert "checking" in out
        assert ", for 5 min" in out
        status, _, err = run("kill")
        assert status == 1
        assert "still being checked" in err

    def test_run_that_never_got_further_than_its_checks(self, lake, run):
        lake.remove(lake.check_writable())
        lake.write("logs/driver.log", b"")
        status, _, err = run("status")
        assert status == 1
        assert "never got further" in err

    def test_lake_of_a_live_run_is_in_zookeeper(self, lake, capsys, monkeypatch):
        lake.write_json("result.json", RESULT)
        nodes = {("zk:1", keys.lake("r")): lake.url}
        monkeypatch.setattr(commands, "read_public", lambda *place: nodes.get(place))
        assert commands.main(["status", "r", "--zookeeper", "zk:1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["lake"] == lake.url
        assert commands.main(["status", "other", "--zookeeper", "zk:1"]) == 1
        assert "--lake" in capsys.readouterr().err

    def test_interrupt(self, run, lake, monkeypatch):
        lake.write_json("result.json", RESULT)
        monkeypatch.setattr(commands, "read_status", interrupted)
        assert run("status") == (130, "", "")


def interrupted(*args):
    raise KeyboardInterrupt


class TestStatusOfALakeAlone:
    def test_finished_run_is_not_connected_to(self, started, run, monkeypatch):
        monkeypatch.setattr(control, "_live", interrupted)
        started.write_json("result.json", RESULT)
        status, out, _ = run("status")
        assert status == 0
        assert "worker-1" in out
        status, out, _ = run("status", "--json")
        assert json.loads(out)["state"] == "failed"

    def test_driver_is_gone(self, started, run, no_patience, tmp_path):
        started.commit_dir(str(tmp_path / "empty"), "checkpoints/000000000007", {"step": 7})
        started.write("checkpoints/000000000009/weights.index", b"")
        begun = time.monotonic()
        status, out, _ = run("status", "--json")
        assert time.monotonic() - begun < 5
        assert status == 0
        found = json.loads(out)
        assert found["state"] == "dead"
        assert f"--resume --run-id r --lake {started.url} app.py" in found["message"]
        assert found["checkpoint"]["step"] == 7
        assert 0 <= found["checkpoint"]["age_secs"] < 60

    def test_damaged_checkpoint_is_passed_over(self, started, run, no_patience, tmp_path):
        started.commit_dir(str(tmp_path / "empty"), "checkpoints/000000000007", {"step": 7})
        started.write("checkpoints/000000000009/COMMIT", b"{")
        assert json.loads(run("status", "--json")[1])["checkpoint"]["step"] == 7

    def test_result_that_comes_a_moment_later_counts(self, started, run, monkeypatch):
        monkeypatch.setattr(control, "_ENDING_SECS", DEADLINE_SECS)
        later = threading.Timer(0.5, started.write_json, ("result.json", RESULT))
        later.start()
        assert json.loads(run("status", "--json")[1])["state"] == "failed"
        later.join()

    def test_numbers_that_json_lacks(self, lake, run):
        lake.write_json("result.json", {**RESULT, "metrics": {"loss": float("nan")}})
        assert json.loads(run("status", "--json")[1])["metrics"] == {"loss": None}

    def test_bad_address(self, started, run):
        status, _, err = run("status", "--zookeeper", "host:port")
        assert status == 2
        assert "--zookeeper host:port" in err


class TestCancelOfALakeAlone:
    def test_finished_run(self, started, run):
        started.write_json("result.json", RESULT)
        status, out, err = run("cancel")
        assert (status, out) == (1, "")
        assert err.startswith("tfos: run r is not running: it failed at 20")

    def test_driver_is_gone(self, started, run, no_patience):
        status, _, err = run("cancel")
        assert status == 1
        assert "run r is not running" in err
        assert "--resume" in err


class TestSelection:
    @pytest.mark.parametrize(
        ("text", "role", "index"),
        [(None, None, None), ("worker", "worker", None), ("ps:3", "ps", 3), ("ps-3", "ps", 3)],
    )
    def test_spellings(self, text, role, index):
        assert Selection.parse(text) == Selection(role, index)

    @pytest.mark.parametrize("text", ["", "worker:", "worker:-1", "1", "worker 1"])
    def test_refused(self, text):
        with pytest.raises(UsageError, match="ROLE"):
            Selection.parse(text)


def write_log(lake, attempt, task, data, mode="wb"):
    path = lake.path(f"logs/{attempt}/{task}.log")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode) as file:
        file.write(data)


class TestLogs:
    @pytest.fixture(autouse=True)
    def written(self, started):
        write_log(started, 1, "chief-0", b"old\n")
        write_log(started, 2, "chief-0", b"one\ntwo\n")
        write_log(started, 2, "worker-0", b"a | b\n\n\xff unfinished")
        write_log(started, 2, "worker-1", b"w1\n")

    @pytest.fixture
    def run(self, started, capfdbinary):
        def call(*argv):
            status = commands.main(["logs", "r", "--lake", started.url, *map(str, argv)])
            said = capfdbinary.readouterr()
            return status, said.out, said.err.decode()

        return call

    def test_all_of_the_newest_attempt(self, run):
        status, out, err = run()
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            *(b"chief-0 | one", b"chief-0 | two"),
            *(b"worker-0 | a | b", b"worker-0 | ", b"worker-0 | \xff unfinished"),
            b"worker-1 | w1",
        ]

    def test_one_role(self, run):
        status, out, _ = run("worker")
        assert status == 0
        assert {line.split(b" | ")[0] for line in out.splitlines()} == {b"worker-0", b"worker-1"}

    @pytest.mark.parametrize("name", ["worker:0", "worker-0"])
    def test_one_task_as_it_is(self, run, name):
        assert run(name) == (0, b"a | b\n\n\xff unfinished", "")

    def test_attempt(self, run):
        assert run("--attempt", 1) == (0, b"chief-0 | old\n", "")

    def test_unknown_attempt(self, run):
        status, out, err = run("--attempt", 7)
        assert (status, out) == (1, b"")
        assert "attempt 7: there are 1, 2" in err

    @pytest.mark.parametrize("name", ["worker:5", "evaluator"])
    def test_unknown_role(self, run, name):
        status, out, err = run(name)
        assert (status, out) == (1, b"")
        assert name in err
        assert "chief-0, worker-0, worker-1" in err

    def test_unknown_role_is_not_waited_for(self, run):
        status, _, err = run("worker:5", "-f")
        assert status == 1
        assert "chief-0, ps-0, worker-0, worker-1" in err

    def test_drivers_log_is_of_no_attempt(self, run, started):
        status, _, err = run("driver")
        assert status == 1
        assert "no log of the driver" in err
        started.write("logs/driver.log", b"WARN a\nWARN b")
        assert run("driver") == (0, b"WARN a\nWARN b", "")
        assert b"WARN" not in run()[1]

    def test_larger_than_one_read(self, run, started):
        line = b"x" * 99 + b"\n"
        write_log(started, 3, "chief-0", line * 30_000)
        assert run("chief")[1] == (b"chief-0 | " + line) * 30_000

    def test_none_yet(self, lake, capsys):
        other = RunDirectory(lake.url, "young")
        other.write_json("spec.json", {})
        assert commands.main(["logs", "young", "--lake", lake.url]) == 1
        assert "no logs" in capsys.readouterr().err

    def test_remote_lake(self):
        lake = RunDirectory(f"memory://logs-{next(_numbers)}", "r")
        found = logs._AttemptLogs(lake, 1, Selection("ps"))
        lake.write("logs/1/ps-0.log", b"one\ntw")
        assert list(found.new(False)) == [b"ps-0 | one\n"]
        assert list(found.new(False)) == []
        lake.write("logs/1/ps-0.log", b"one\ntwo\n")
        assert list(found.new(False)) == [b"ps-0 | two\n"]
        lake.write("logs/1/ps-0.log", b"new\n")  # by a supervisor on another executor
        assert list(found.new(False)) == [b"ps-0 | new\n"]


class TestFollow:
    """In a process of its own, as a user would."""

    @pytest.fixture
    def follow(self, started):
        processes = []

        def start(*argv):
            code = "import sys; from tfos.cli.commands import main; sys.exit(main(sys.argv[1:]))"
            process = subprocess.Popen(
                [sys.executable, "-c", code, "logs", "r", "--lake", started.url, "-f", *argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.communicate()

    def test_to_the_end_over_attempts(self, started, follow):
        write_log(started, 1, "worker-0", b"one\nbeg")
        process = follow()
        assert process.stdout.readline() == b"worker-0 | one\n"
        write_log(started, 1, "worker-0", b"un\n", "ab")
        assert process.stdout.readline() == b"worker-0 | begun\n"
        write_log(started, 1, "worker-0", b"cut", "ab")
        write_log(started, 2, "chief-0", b"again\n")
        assert process.stdout.readline() == b"worker-0 | cut\n"
        assert process.stdout.readline() == b"chief-0 | again\n"
        write_log(started, 2, "chief-0", b"last\n", "ab")
        started.write_json("result.json", RESULT)
        out, err = process.communicate(timeout=DEADLINE_SECS)
        assert out == b"chief-0 | last\n"
        assert err == b"tfos: attempt 2 begins\n"
        assert process.returncode == 0

    def test_waits_for_the_first_log(self, started, follow):
        process = follow("chief:0")
        write_log(started, 1, "chief-0", b"begun")  # one task: also before its line is whole
        assert process.stdout.read(5) == b"begun"
        started.write_json("result.json", RESULT)
        assert process.wait(DEADLINE_SECS) == 0

    def test_drivers_log_goes_on_over_attempts(self, started, follow):
        process = follow("driver")
        started.write("logs/driver.log", b"one\n")
        assert process.stdout.readline() == b"one\n"
        write_log(started, 2, "chief-0", b"of the chief\n")
        with open(started.path("logs/driver.log"), "ab") as file:
            file.write(b"two\n")
        assert process.stdout.readline() == b"two\n"
        started.write_json("result.json", RESULT)
        assert process.communicate(timeout=DEADLINE_SECS) == (b"", b"")

    def test_one_attempt_is_over_when_the_next_begins(self, started, follow):
        write_log(started, 1, "chief-0", b"one\n")
        process = follow("--attempt", "1")
        assert process.stdout.readline() == b"chief-0 | one\n"
        write_log(started, 2, "chief-0", b"two\n")
        assert process.communicate(timeout=DEADLINE_SECS) == (b"", b"")
        assert process.returncode == 0

    def test_without_driver_result_and_news_it_is_over(self, started, monkeypatch):
        monkeypatch.setattr(logs, "_ASK_SECS", 0.0)
        monkeypatch.setattr(logs, "_LEFT_SECS", 0.2)
        monkeypatch.setattr(logs, "_LOCAL_POLL_SECS", 0.01)
        write_log(started, 1, "chief-0", b"one\n")
        answers = itertools.chain([True] * 50, itertools.repeat(False))
        asked, said = [], []

        def has_driver():
            asked.append(next(answers))
            return asked[-1]

        parts = logs.follow_logs(started, Selection(), None, has_driver, said.append)
        assert b"".join(parts) == b"chief-0 | one\n"
        assert len(asked) > 50
        assert "its driver is gone" in said[0]

    def test_interrupt_leaves_no_traceback(self, started, follow):
        write_log(started, 1, "chief-0", b"one\n")
        process = follow()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_SECS) == (b"", b"")
        assert process.returncode == 130

    def test_reader_that_has_seen_enough(self, started, follow):
        write_log(started, 1, "chief-0", b"one\n" * 100_000)
        process = follow()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE_SECS) == 0
        assert process.stderr.read() == b""


@pytest.mark.spark
class TestLive:
    """Against real ZooKeeper; the test plays the driver."""

    @pytest.fixture
    def lake(self, tmp_path):
        return RunDirectory(str(tmp_path / "lake"), f"live-{next(_numbers)}")

    @pytest.fixture
    def driver(self, zookeeper, lake):
        """The registry of the run, whose driver is there."""
        prepare(zookeeper)
        address = RegistryAddress.new(zookeeper, lake.run_id)
        lake.write_json("registry.json", vars(address))
        lake.write_json("spec.json", JobSpec.of(run_id=lake.run_id).as_json())
        with Registry(address) as registry:
            registry.create(keys.driver(lake.run_id), {"host": "h", "pid": 1}, ephemeral=True)
            yield registry

    @pytest.fixture
    def run(self, lake, run):
        return lambda *argv: run(*argv, run_id=lake.run_id)

    def test_status(self, driver, lake, run):
        run_id = lake.run_id
        put = driver.put
        put(keys.phase(run_id), {"text": "pre_train()", "since": time.time() - 60})
        found = json.loads(run("status", "--json")[1])
        assert found["progress"]["phase"] == "pre_train()"
        assert found["progress"]["secs"] >= 60
        put(keys.phase(run_id), {"text": "", "since": time.time()})
        put(keys.lives(run_id, 1), {"lives": {"chief-0": 1, "ps-0": 2}, "hung": False})
        put(f"{keys.failures(run_id, 1)}/ps-0.1", failure("ps-0", message="ended"))
        put(keys.lives(run_id, 2), {"lives": {"chief-0": 1, "ps-0": 1}, "hung": False})
        put(f"{keys.members(run_id, 2)}/chief-0", member(11))
        put(f"{keys.members(run_id, 2)}/ps-0", member(12))
        put(f"{keys.ready(run_id, 2)}/ps-0", 1)
        put(keys.progress(run_id, 2), PROGRESS)
        status, out, err = run("status", "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert (found["state"], found["attempt"]) == ("running", 2)
        assert found["roles"] == [
            {"task": "chief-0", "state": "training", "host": "h", "pid": 11, "restarts": 0},
            {"task": "ps-0", "state": "up", "host": "h", "pid": 12, "restarts": 1},
        ]
        assert found["progress"] == PROGRESS
        assert [one["message"] for one in found["failures"]] == ["ended"]
        assert "train epoch 2/5" in run("status")[1]

    def test_driver_node_is_absent(self, driver, lake, run, no_patience):
        driver.remove(keys.driver(lake.run_id))
        assert json.loads(run("status", "--json")[1])["state"] == "dead"
        status, _, err = run("cancel")
        assert status == 1
        assert "not running" in err

    def test_lake_is_published(self, driver, lake, zookeeper, capsys):
        driver.publish(keys.lake(lake.run_id), lake.url)
        argv = [lake.run_id, "--zookeeper", zookeeper, "--json"]
        assert commands.main(["status", *argv]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "running"

    def end(self, driver, lake, result):
        """As the driver does when it sees the kill node: in a thread, result last."""
        asked = threading.Event()

        def work():
            assert asked.wait(DEADLINE_SECS)
            driver.remove(keys.driver(lake.run_id))
            if result is not None:
                time.sleep(0.5)
                lake.write_json("result.json", result)

        driver.watch(keys.kill(lake.run_id), lambda value: asked.set() if value else None)
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    @pytest.mark.parametrize("command", ["cancel", "kill"])
    def test_cancel(self, driver, lake, run, command):
        thread = self.end(driver, lake, {**RESULT, "error": {**ERROR, "message": "interrupted"}})
        status, out, err = run(command)
        thread.join()
        assert status == 0
        assert out == f"run {lake.run_id} ended: failed: worker 1 on h: interrupted\n"
        assert "asked the driver" in err
        assert "@" in driver.get(keys.kill(lake.run_id))["by"]

    def test_cancel_of_a_driver_that_leaves_no_result(self, driver, lake, run, monkeypatch):
        monkeypatch.setattr(control, "_LEFT_SECS", 0.5)
        thread = self.end(driver, lake, None)
        status, out, _ = run("cancel")
        thread.join()
        assert status == 0
        assert "without a result" in out
        assert f"--resume --run-id {lake.run_id}" in out

    def test_driver_that_does_not_listen(self, driver, lake):
        with pytest.raises(RegistryError, match=r"has not ended within 0\.5 s"):
            control.cancel(lake, secs=0.5)
        assert "asked to end it" in control.read_status(lake).message

    def test_another_credential(self, driver, lake, run):
        record = lake.read_json("registry.json")
        lake.write_json("registry.json", {**record, "password": "other"})
        status, _, err = run("status")
        assert status == 1
        assert "another run of this name" in err

    def test_lake_that_cannot_be_read(self, driver, lake, run):
        lake.write("registry.json", b"{")
        with pytest.raises(LakeError):
            control.read_status(lake)
        assert run("status")[0] == 1
