"""A TF process as its supervisor holds it, with a quick stand-in for TensorFlow's."""

from __future__ import annotations

import os
import queue
import signal
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import poll

from tfos.runtime import child
from tfos.runtime.child import TFProcess
from tfos.runtime.protocol import (
    STACKS_SIGNAL,
    IsReady,
    Progress,
    Quiet,
    SaveSoon,
    StartOrder,
    to_line,
)
from tfos.spec.roles import Task
from tfos.spec.topology import find

pytestmark = pytest.mark.serial
DEADLINE_SECS = 10.0

# what each stand-in begins with
PROLOGUE = """#!{python} -IS
import faulthandler, json, os, signal, sys, time
channel = os.fdopen(int(os.environ["TFOS_CHANNEL"]), "wb", buffering=0)
def say(kind, **fields):
    channel.write(json.dumps({{"": kind, **fields}}).encode() + b"\\n")
def tell(what):
    say("Progress", progress=what)
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts TFProcesses whose program is `code`, and ends them at last.

    events: (life, message) and at last (life, exit status) of each.
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    processes = []

    def start(code="time.sleep(600)", role="worker"):
        program = tmp_path / f"python-{len(processes)}"
        program.write_text(PROLOGUE.format(python=sys.executable) + textwrap.dedent(code))
        program.chmod(0o700)
        events = queue.Queue()
        stand_in = SimpleNamespace(executable=str(program), path=["/shipped/app.zip", ""])
        monkeypatch.setattr(child, "sys", stand_in)
        process = TFProcess(
            Task(role, 1),
            "run-7",
            find("ps").of({}),
            str(scratch),
            tmp_path / "log",
            lambda process, message: events.put((process.life, message)),
            lambda process, status: events.put((process.life, status)),
        )
        process.events = events
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.end()


def next_event(process):
    return process.events.get(timeout=DEADLINE_SECS)


def order(process):
    return StartOrder("worker", 1, 2, 3, {"worker": ["h:1"]}, {}, "/lake", "run-7", process.scratch)


class TestProgram:
    def test_is_run_as_the_tensorflow_process_of_its_task(self, started):
        process = started("tell(sys.argv[1:])")
        _, message = next_event(process)
        assert message.progress == [
            *("-X", "faulthandler", "-m", "tfos.runtime.main"),
            *("worker-1", "run-7", "ps"),
        ]

    def test_environment(self, started):
        names = ("PYTHONPATH", "TF_GRPC_REUSE_PORT", "KERAS_BACKEND", "PATH")
        process = started(f"tell({{name: os.environ.get(name) for name in {names}}})")
        _, message = next_event(process)
        assert message.progress == {
            "PYTHONPATH": "/shipped/app.zip",
            "TF_GRPC_REUSE_PORT": "true",
            "KERAS_BACKEND": "tensorflow",
            "PATH": os.environ["PATH"],
        }

    def test_all_processes_of_a_task_append_to_its_log(self, started, tmp_path):
        for word in ("one", "two"):
            process = started(f"print('{word}')")
            assert next_event(process) == (0, 0)
        assert (tmp_path / "log").read_text() == "one\ntwo\n"

    def test_has_a_scratch_directory_of_its_own(self, started, tmp_path):
        one, two = started(), started()
        assert one.scratch != two.scratch
        assert Path(one.scratch).is_dir()
        assert Path(one.scratch).parent == tmp_path / "scratch"


class TestEvents:
    def test_what_it_says_and_then_its_exit(self, started):
        process = started("say('IsReady'); say('Alive'); tell({'epoch': 1}); sys.exit(7)")
        said = [next_event(process) for _ in range(3)]
        assert said == [(0, IsReady()), (0, Progress({"epoch": 1})), (0, 7)]
        assert not process.is_running

    def test_carry_the_life_that_it_has_now(self, started):
        process = started("say('IsReady'); sys.stdin.readline(); say('IsReady')")
        assert next_event(process) == (0, IsReady())
        process.begin(4, 0)
        process.save_soon()
        assert next_event(process) == (4, IsReady())
        assert next_event(process) == (4, 0)

    def test_exit_comes_though_a_grandchild_lives_and_holds_the_channel(self, started):
        """Of a process pool in user code, whose workers outlive the one that forked them."""
        process = started("os._exit(3) if os.fork() else time.sleep(600)")
        assert next_event(process) == (0, 3)

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
    def test_death_by_a_signal(self, started, signum):
        process = started()
        os.kill(process.pid, signum)
        assert next_event(process) == (0, -signum)


class TestOrders:
    ECHO = "for line in sys.stdin: tell(line)"

    def test_order_then_save_soon(self, started):
        process = started(self.ECHO)
        process.begin(3, 100.0)
        process.order(order(process))
        process.save_soon()
        _, message = next_event(process)
        assert message.progress.encode() == to_line(order(process))
        assert next_event(process) == (3, Progress(to_line(SaveSoon()).decode()))

    def test_to_one_that_has_just_died_is_no_error(self, started):
        process = started("pass")
        assert next_event(process) == (0, 0)
        process.begin(1, 100.0)
        process.order(order(process))
        process.save_soon()
        process.end()

    def test_order_may_be_longer_than_a_pipe_holds(self, started):
        process = started(self.ECHO)
        process.begin(1, 0)
        long = StartOrder("ps", 0, 1, 1, {}, {"params": {"x": "y" * 300_000}}, "", "", "")
        process.order(long)
        assert next_event(process) == (1, Progress(to_line(long).decode()))


class TestWatch:
    def test_is_none_before_it_has_a_life(self, started):
        process = started("say('Alive'); say('IsReady'); time.sleep(600)")
        next_event(process)
        assert process.watch is None

    @pytest.mark.parametrize(("role", "expected"), [("chief", True), ("worker", False)])
    def test_expects_progress_of_a_chief_from_its_order_on(self, started, role, expected):
        process = started("sys.stdin.readline(); say('IsReady'); time.sleep(600)", role)
        process.begin(1, 100.0)
        assert process.watch._trains is False
        process.order(order(process))
        assert process.watch._trains is expected

    def test_hears_signs_of_life_that_are_no_event(self, started):
        process = started(
            "sys.stdin.readline(); say('Alive'); say('Quiet', begins=True); time.sleep(600)"
        )
        process.begin(1, 100.0)
        heard = []
        process.watch.alive = lambda now: heard.append("alive")
        process.watch.quiet = lambda begins, now: heard.append(begins)
        process.save_soon()
        assert next_event(process) == (1, Quiet(True))
        assert heard == ["alive", True]


class TestStacks:
    CODE = "faulthandler.register({}); say('IsReady'); time.sleep(600)"

    def test_are_left_in_the_log(self, started, tmp_path):
        process = started(self.CODE.format(int(STACKS_SIGNAL)))
        next_event(process)
        process.write_stacks()
        poll(lambda: "most recent call first" in (tmp_path / "log").read_text(), 5, "stacks")
        assert process.is_running

    def test_of_one_that_is_stopped_too(self, started, tmp_path):
        process = started(self.CODE.format(int(STACKS_SIGNAL)))
        next_event(process)
        os.kill(process.pid, signal.SIGSTOP)
        poll(
            lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED,
            5,
            "it is stopped",
        )
        process.write_stacks()
        poll(lambda: "most recent call first" in (tmp_path / "log").read_text(), 5, "stacks")

    def test_of_one_that_has_ended_are_no_error(self, started):
        process = started("pass")
        next_event(process)
        process.write_stacks()


class TestEnd:
    STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('IsReady'); time.sleep(600)"

    def test_kill_is_followed_by_its_exit(self, started):
        process = started(self.STUBBORN)
        next_event(process)
        process.begin(2, 0)
        process.kill()
        assert next_event(process) == (2, -signal.SIGKILL)

    def test_end_removes_what_is_its_own_and_nothing_else(self, started, tmp_path):
        one, two = started(self.STUBBORN), started()
        next_event(one)
        Path(one.scratch, "shard").touch()
        one.end()
        assert not one.is_running
        assert not Path(one.scratch).exists()
        assert two.is_running
        assert Path(two.scratch).is_dir()
        one.end()
        assert (tmp_path / "log").exists()
