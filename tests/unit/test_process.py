"""Children that cannot outlive their parent, seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tfos.runtime.process import ChildProcess, describe_status

pytestmark = pytest.mark.serial
DEADLINE_SECS = 10.0

# A child that starts a grandchild, says both pids in a file, and stays.
FAMILY = """
import json, os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".part", "w") as file:
    json.dump([os.getpid(), grandchild.pid], file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""

# A parent that starts such a family as a ChildProcess, and stays.
PARENT = """
import os, sys, time
from tfos.runtime.process import ChildProcess
family, said, scratch = sys.argv[1:]
child = ChildProcess(
    [sys.executable, "-I", "-S", "-c", family, said],
    env=os.environ, log=os.open(os.devnull, os.O_WRONLY), scratch=scratch,
)
time.sleep(600)
"""


def eventually(condition, what):
    """Polls until the condition holds; fails after DEADLINE_SECS."""
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECS:g} s: {what}"
        time.sleep(0.02)


def is_gone(pid):
    """Whether no such process runs any more; a zombie that nobody reaps has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def started(tmp_path):
    """Starts ChildProcesses, whose output goes to tmp_path/log, and ends them at last."""
    children = []

    def start(*argv, **options):
        with open(tmp_path / "log", "ab") as log:
            child = ChildProcess(argv, env=os.environ, log=log.fileno(), **options)
        children.append(child)
        return child

    yield start
    for child in children:
        child.end(grace_secs=0.1)


def python(code, *args):
    return (sys.executable, "-I", "-S", "-c", code, *args)


def start_family(start, tmp_path, **options):
    """A child with a grandchild, both running: (ChildProcess, their pids)."""
    said = tmp_path / "pids"
    child = start(*python(FAMILY, str(said)), **options)
    eventually(said.exists, "the family said its pids")
    return child, json.loads(said.read_text())


class TestChild:
    def test_leads_a_group_of_its_own(self, started):
        child = started(*python("import time; time.sleep(600)"))
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)

    def test_status_is_that_of_the_process(self, started):
        child = started(*python("import sys; sys.exit(7)"))
        assert child.wait(DEADLINE_SECS) == 7
        assert child.poll() == 7

    def test_wait_gives_up_in_time(self, started):
        child = started(*python("import time; time.sleep(600)"))
        assert child.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)

    def test_output_and_errors_go_to_the_log(self, started, tmp_path):
        code = "import sys; print('out'); print('err', file=sys.stderr)"
        started(*python(code)).wait(DEADLINE_SECS)
        assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]

    def test_reads_what_we_write(self, started, tmp_path):
        child = started(*python("print(input()[::-1])"))
        child.stdin.write(b"order\n")
        child.stdin.flush()
        assert child.wait(DEADLINE_SECS) == 0
        assert (tmp_path / "log").read_text() == "redro\n"

    def test_inherits_the_descriptors_it_is_given_and_no_others(self, started):
        read_end, write_end = os.pipe()
        other = os.open(os.devnull, os.O_WRONLY)
        os.set_inheritable(other, True)
        code = f"import os; os.write({write_end}, b'x'); os.write({other}, b'x')"
        child = started(*python(code), pass_fds=[write_end])
        os.close(write_end)
        assert child.wait(DEADLINE_SECS) == 1
        # EOF comes only when the guardian does not hold the pipe either
        assert os.read(read_end, 10) == b"x"
        assert os.read(read_end, 10) == b""
        os.close(read_end)
        os.close(other)


class TestEnd:
    def test_ends_grandchildren_and_removes_scratch(self, started, tmp_path):
        scratch = tmp_path / "scratch"
        (scratch / "deep").mkdir(parents=True)
        child, pids = start_family(started, tmp_path, scratch=str(scratch))
        assert child.end() == -signal.SIGTERM
        eventually(lambda: all(map(is_gone, pids)), "the family is gone")
        assert not scratch.exists()

    def test_leaves_no_guardian(self, started):
        before = set(psutil.Process().children())
        child = started(*python("import time; time.sleep(600)"))
        assert len(set(psutil.Process().children()) - before) == 2
        child.end()
        assert set(psutil.Process().children()) == before

    def test_kills_what_ignores_sigterm(self, started, tmp_path):
        said = tmp_path / "said"
        code = (
            "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            " open(sys.argv[1], 'w').close(); time.sleep(600)"
        )
        child = started(*python(code, str(said)))
        eventually(said.exists, "the child ignores SIGTERM")
        begun = time.monotonic()
        assert child.end(grace_secs=0.2) == -signal.SIGKILL
        assert time.monotonic() - begun >= 0.2

    def test_gives_the_child_time_to_leave_in_order(self, started, tmp_path):
        said, left = tmp_path / "said", tmp_path / "left"
        code = (
            "import signal, sys, time\n"
            "def leave(*_):\n"
            "    time.sleep(0.2); open(sys.argv[2], 'w').close(); sys.exit(3)\n"
            "signal.signal(signal.SIGTERM, leave)\n"
            "open(sys.argv[1], 'w').close()\n"
            "time.sleep(600)\n"
        )
        child = started(*python(code, str(said), str(left)))
        eventually(said.exists, "the child has its handler")
        assert child.end() == 3
        assert left.exists()

    def test_without_grace_the_whole_group_is_killed_at_once(self, started, tmp_path):
        child, pids = start_family(started, tmp_path)
        assert child.end(grace_secs=0) == -signal.SIGKILL  # SIGTERM would have ended it first
        eventually(lambda: all(map(is_gone, pids)), "the family is gone")

    def test_scratch_is_kept_for_a_child_that_takes_over(self, started, tmp_path):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (scratch / "data").touch()
        sleeps = python("import time; time.sleep(600)")
        one = started(*sleeps, scratch=str(scratch))
        guardian = one._guardian.pid
        one.end(grace_secs=0, keep_scratch=True)
        assert is_gone(guardian)  # which would remove it
        assert (scratch / "data").exists()
        two = started(*sleeps, scratch=str(scratch))
        two.end(grace_secs=0)
        assert not scratch.exists()

    def test_stopped_child_takes_sigterm(self, started, tmp_path):
        child, pids = start_family(started, tmp_path)
        os.kill(child.pid, signal.SIGSTOP)
        eventually(
            lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED, "it is stopped"
        )
        assert child.end() == -signal.SIGTERM
        eventually(lambda: all(map(is_gone, pids)), "the family is gone")

    def test_after_a_natural_end_gives_the_status_and_removes_scratch(self, started, tmp_path):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        child = started(*python("import sys; sys.exit(7)"), scratch=str(scratch))
        child.wait(DEADLINE_SECS)
        assert child.end() == 7
        assert not scratch.exists()

    def test_after_a_natural_end_kills_what_the_child_left(self, started, tmp_path):
        said = tmp_path / "pid"
        code = (
            "import subprocess, sys\n"
            "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "open(sys.argv[1], 'w').write(str(left.pid))\n"
        )
        child = started(*python(code, str(said)))
        child.wait(DEADLINE_SECS)
        left = int(said.read_text())
        assert not is_gone(left)
        child.end()
        eventually(lambda: is_gone(left), "what the child left is gone")

    def test_may_be_called_again(self, started):
        child = started(*python("import time; time.sleep(600)"))
        assert child.end() == child.end() == -signal.SIGTERM

    def test_with_unread_input_is_no_error(self, started):
        child = started(*python("pass"))
        child.wait(DEADLINE_SECS)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(b"too late")
        assert child.end() == 0


class TestSignal:
    def test_goes_to_the_child_alone(self, started, tmp_path):
        child, (pid, grandchild) = start_family(started, tmp_path)
        child.signal(signal.SIGUSR1)
        assert child.wait(DEADLINE_SECS) == -signal.SIGUSR1
        assert is_gone(pid)
        assert not is_gone(grandchild)

    def test_after_its_end_is_no_error(self, started):
        child = started(*python("pass"))
        child.wait(DEADLINE_SECS)
        child.signal(signal.SIGUSR1)
        child.signal_group(signal.SIGUSR1)
        assert child.end() == 0


class TestParentDies:
    @pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
    def test_child_grandchild_and_scratch_go_with_it(self, tmp_path, stopped):
        scratch, said = tmp_path / "scratch", tmp_path / "pids"
        (scratch / "deep").mkdir(parents=True)
        parent = subprocess.Popen([sys.executable, "-c", PARENT, FAMILY, str(said), str(scratch)])
        try:
            eventually(said.exists, "the family said its pids")
            family = json.loads(said.read_text())
            everyone = {p.pid for p in psutil.Process(parent.pid).children(recursive=True)}
            assert set(family) < everyone  # and the guardian
            if stopped:
                for pid in family:
                    os.kill(pid, signal.SIGSTOP)
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        eventually(lambda: all(map(is_gone, everyone)), "all that the parent started is gone")
        eventually(lambda: not scratch.exists(), "the scratch directory is removed")

    def test_dead_parents_fork_does_not_keep_the_child_alive(self, tmp_path):
        """A fork of the parent, as a pyspark worker's, holds the guardian's pipe open."""
        scratch, said = tmp_path / "scratch", tmp_path / "pids"
        scratch.mkdir()
        fork = PARENT.replace("time.sleep(600)", "pid = os.fork(); time.sleep(600)")
        parent = subprocess.Popen(
            [sys.executable, "-c", fork, FAMILY, str(said), str(scratch)], start_new_session=True
        )
        try:
            eventually(said.exists, "the family said its pids")
            family = json.loads(said.read_text())
            started = psutil.Process(parent.pid).children
            eventually(lambda: len(started()) == 3, "child, guardian and fork are there")
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            eventually(lambda: all(map(is_gone, family)), "the family is gone")
            eventually(lambda: not scratch.exists(), "the scratch directory is removed")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)


class TestDescribeStatus:
    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (0, "exited with status 0"),
            (7, "exited with status 7"),
            (-signal.SIGSEGV, "was killed by SIGSEGV"),
            (-signal.SIGKILL, "was killed by SIGKILL"),
            (-250, "was killed by signal 250"),
        ],
    )
    def test_in_words(self, status, text):
        assert describe_status(status) == text
