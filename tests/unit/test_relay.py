"""What a child writes, passed on: pipes, a thread, and the log of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tfos.cli.driver_log import DriverLog
from tfos.cli.relay import Relay
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory
from tfos.spec import result

DEADLINE_SECS = 20.0
WARN = b"26/11/29 03:07:16 WARN NativeCodeLoader: Unable to load\n"
WARN_TEXT = WARN.decode().rstrip()


def eventually(condition, what):
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECS:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def lake(tmp_path):
    return RunDirectory(str(tmp_path / "lake"), "r")


@pytest.fixture
def told(tmp_path):
    return tmp_path / "told" / result.RUN_FILE


@pytest.fixture
def tell(told, monkeypatch):
    """Says, as a driver does, which run it is at."""
    told.parent.mkdir()
    monkeypatch.setenv(result.RESULT_FILE_ENV, str(told.with_name("result.json")))

    def tell(lake):
        result.tell_run(lake.url, "r")

    return tell


class Screen:
    """What a person sees: a file, which the relay writes on."""

    def __init__(self, path):
        self._path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @property
    def text(self):
        return self._path.read_bytes()


@pytest.fixture
def screen(tmp_path):
    screen = Screen(tmp_path / "screen")
    yield screen
    os.close(screen.descriptor)


@pytest.fixture
def relayed(screen, told, tmp_path):
    """Starts Python code whose output is relayed; returns the relay and the process."""
    started = []

    def start(code, sink=None, **options):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        log = DriverLog(told, str(scratch))
        relay = Relay(screen.descriptor if sink is None else sink, log, **options)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-u", "-c", "import os, sys, time\n" + code],
            stdin=subprocess.PIPE, stdout=relay.driver, stderr=relay.jvm, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        relay.begin()
        return relay, process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(relay, process, **options):
    process.communicate(timeout=DEADLINE_SECS)
    begun = time.monotonic()
    relay.close(**options)
    assert time.monotonic() - begun < DEADLINE_SECS


def err(text):
    return f"print({text!r}, file=sys.stderr)\n"


class TestShown:
    def test_driver_and_jvm_are_told_apart(self, relayed, screen, lake, tell):
        tell(lake)
        finish(*relayed(f"print({WARN_TEXT!r})\n" + err(WARN_TEXT) + err("mine")))
        assert sorted(screen.text.splitlines()) == sorted([WARN.rstrip(), b"mine"])
        assert lake.read(DRIVER_LOG) == WARN

    @pytest.mark.parametrize(
        "text", ["Password: ", "\r 10%", "\x1b[?25l\r\x1b[2Ktrain", "26/11/29 03", "W0000 00:"]
    )
    def test_partial_lines_come_while_the_child_waits(self, relayed, screen, lake, text):
        relay, process = relayed(f"os.write(1, {text.encode()!r}); os.write(2, b'!'); input()")
        eventually(
            lambda: sorted(screen.text) == sorted(text.encode() + b"!"), "the line's begin is shown"
        )
        finish(relay, process)

    def test_megabytes_and_garbage_are_whole(self, relayed, screen):
        garbage = bytes(range(256)) * 40_000
        finish(
            *relayed(
                "data = bytes(range(256)) * 40_000\nwhile data: data = data[os.write(1, data):]"
            )
        )
        assert screen.text == garbage

    def test_end_of_the_child_is_the_end_of_what_is_shown(self, relayed, screen):
        for _ in range(20):
            finish(*relayed("os.write(1, b'last words'); os.kill(os.getpid(), 9)"))
        assert screen.text == b"last words" * 20

    def test_all_is_shown_where_it_is_asked_for(self, relayed, screen, lake, tell):
        tell(lake)
        finish(*relayed(err(WARN_TEXT) + err("mine"), shows_all=True))
        assert screen.text == WARN + b"mine\n"
        assert lake.read(DRIVER_LOG) == WARN


class TestLog:
    def test_run_is_told_later(self, relayed, screen, lake, tell):
        relay, process = relayed(err(WARN_TEXT) + "input()\n" + err(WARN_TEXT))
        tell(lake)
        process.stdin.write(b"\n")
        finish(relay, process)
        assert lake.read(DRIVER_LOG) == 2 * WARN
        assert screen.text == b""

    def test_lake_elsewhere_has_what_drivers_before_wrote_too(self, relayed, tell):
        lake = RunDirectory("memory://relay", "r")
        lake.write(DRIVER_LOG, b"of a driver before\n")
        tell(lake)
        finish(*relayed(err(WARN_TEXT)))
        assert lake.read(DRIVER_LOG) == b"of a driver before\n" + WARN

    def test_run_is_told_at_the_end(self, relayed, lake, tell):
        relay, process = relayed(err(WARN_TEXT))
        process.wait(DEADLINE_SECS)
        tell(lake)
        finish(relay, process)
        assert lake.read(DRIVER_LOG) == WARN

    def test_run_that_goes_on_has_one_log(self, relayed, lake, tell):
        tell(lake)
        for _ in range(2):
            finish(*relayed(err(WARN_TEXT)))
        assert lake.read(DRIVER_LOG) == 2 * WARN

    @pytest.mark.parametrize("shows", [True, False])
    def test_no_run(self, relayed, screen, shows):
        finish(*relayed(err(WARN_TEXT)), shows_unplaced=shows)
        assert screen.text == (WARN if shows else b"")

    def test_that_cannot_be_written_is_shown_instead(self, relayed, screen, lake, tell, tmp_path):
        (tmp_path / "lake").write_text("no directory")
        relay, process = relayed(err(WARN_TEXT) + "input()\n" + err(WARN_TEXT) + err("mine"))
        tell(lake)
        process.stdin.write(b"\n")
        finish(relay, process)
        first, *rest = screen.text.splitlines(keepends=True)
        assert first.startswith(b"tfos: the log of Spark's messages cannot be written: ")
        assert rest == [WARN, WARN, b"mine\n"]


class TestEnd:
    def test_nobody_looks_any_more(self, relayed, lake, tell):
        tell(lake)
        read_end, write_end = os.pipe()
        os.close(read_end)
        relay, process = relayed("print('x' * 200_000)\n" + err(WARN_TEXT), sink=write_end)
        assert process.wait(DEADLINE_SECS) == 0
        finish(relay, process)
        os.close(write_end)
        assert lake.read(DRIVER_LOG) == WARN

    def test_process_that_the_child_has_left_does_not_hold_it_up(self, relayed, screen):
        code = "if os.fork(): print('parent'); os._exit(0)\ntime.sleep(600)"
        relay, process = relayed(code)
        try:
            finish(relay, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert screen.text == b"parent\n"

    def test_nothing_is_left_but_the_log(self, relayed, lake, tell, tmp_path):
        tell(lake)
        before = len(os.listdir("/proc/self/fd"))
        finish(*relayed(err(WARN_TEXT)))
        # the process's own stdin is closed with it
        assert len(os.listdir("/proc/self/fd")) == before
