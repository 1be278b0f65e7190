"""The TensorFlow process's own machinery, without TensorFlow: its end, its signals, its reports."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from tfos.fault.hang import HangWatch
from tfos.runtime.host import WireReports
from tfos.runtime.protocol import Alive, Moved, Progress, Quiet, from_line

DEADLINE_SECS = 20
PROLOGUE = """
import os, signal, sys, threading, time
from types import SimpleNamespace
from tfos.errors import LakeError
from tfos.fault.failures import FailureKind
from tfos.runtime import main, preemption
from tfos.runtime.protocol import Moved, Progress
sys.argv = ["main", "chief-0", "run", "single"]
"""


@pytest.fixture
def run():
    """Runs `code` with a channel; returns its exit status and what it said on the channel."""
    processes = []

    def run(code):
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + textwrap.dedent(code)],
            env={**os.environ, "TFOS_CHANNEL": str(write_end)},
            pass_fds=[write_end],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        os.close(write_end)
        status = process.wait(DEADLINE_SECS)
        with os.fdopen(read_end, "rb") as channel:
            said = [from_line(line) for line in channel]
        return status, [message for message in said if message != Alive()]

    yield run
    for process in processes:
        process.kill()
        process.stdin.close()
        process.wait()


def test_failure_is_the_end_whatever_threads_user_code_has_left(run):
    status, said = run("""
        def fail(*args):
            threading.Thread(target=time.sleep, args=(600,)).start()
            raise ValueError("no such column")
        kind = lambda error: FailureKind.EXCEPTION
        main.load = lambda path: SimpleNamespace(preload=fail, failure_kind=kind)
        sys.exit(main.main())
    """)
    assert status == 1
    (message,) = said
    assert message.message == "ValueError: no such column"


class TestSigterm:
    START = """
        channel = main.Channel(int(os.environ["TFOS_CHANNEL"]))
        asked = channel._preemption
    """

    def test_saves_and_ends(self, run):
        status, said = run(
            self.START
            + """
        def save():
            channel.send(Moved())
            return iter([False, True]).__next__
        asked.on_sigterm = save
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
        """
        )
        assert status == 128 + 15
        assert said[0] == Moved()
        assert said[1].kind == "preempted"

    @pytest.mark.parametrize("act", ["time.sleep(600)", "raise LakeError('no answer')"])
    @pytest.mark.parametrize("when", ["first", "asked"])
    def test_ends_in_time_though_the_lake_fails(self, run, act, when):
        status, said = run(
            self.START
            + f"""
        preemption._STAY_SECS = 0.2
        def fail():
            {act}
        asked.on_sigterm = fail if {when == "first"} else lambda: fail
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
        """
        )
        assert status == 128 + 15
        assert [message.kind for message in said] == ["preempted"]

    def test_of_a_process_that_user_code_forked_ends_that_one_alone(self, run):
        """multiprocessing.Pool.terminate() sends it to each of its processes."""
        status, said = run(
            self.START
            + """
        read_end, write_end = os.pipe()
        forked = os.fork()
        if not forked:
            os.write(write_end, b"up")
            time.sleep(600)
        os.read(read_end, 2)
        os.kill(forked, signal.SIGTERM)
        _, ended = os.waitpid(forked, 0)
        channel.send(Progress({"ended by": os.WTERMSIG(ended)}))
        """
        )
        assert status == 0
        assert said == [Progress({"ended by": 15})]


class TestReports:
    @pytest.fixture
    def said(self):
        return []

    @pytest.fixture
    def reports(self, said):
        channel = SimpleNamespace(send=said.append)
        return WireReports(channel, is_chief=True)

    def test_commit_is_told_though_the_loop_says_nothing(self, reports, said):
        reports.saved({"step": 3})  # what the run continues from
        reports.progress({"phase": "train() begins"})
        reports.saved({"step": 7})
        steps = [(m.progress["phase"], m.progress["checkpoints"]["step"]) for m in said]
        assert steps == [("train() begins", 3), ("train() begins", 7)]

    def test_quiet_lasts_until_the_outermost_block_ends(self, reports, said):
        watch = HangWatch(10, True, now=0)
        with reports.quiet():
            with reports.quiet():
                pass
            for message in said:
                watch.quiet(message.begins, now=1)
            assert watch._quiet
        watch.quiet(said[-1].begins, now=2)
        assert said == [Quiet(True), Quiet(False)]
        assert not watch._quiet


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Collective ops is aborted by: Socket closed", "peer"),
        ("Collective ops is aborted by: Shape mismatch in the collective instance 7.", "exception"),
        ("Unable to find the relevant tensor remote_handle: Op ID: 7", "peer"),
        ("Stream removed", "peer"),
        ("indices[0] = 9 is not in [0, 7)", "exception"),
    ],
)
def test_death_of_another_process_is_no_error_of_this_one(message, kind):
    import tensorflow as tf

    from tfos.strategies.errors import failure_kind

    assert failure_kind(tf.errors.InvalidArgumentError(None, None, message)) == kind
    assert failure_kind(tf.errors.DeadlineExceededError(None, None, "Deadline Exceeded")) == "peer"
