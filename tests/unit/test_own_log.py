"""The driver's output is where it was, and in the run's directory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfos.lake.run_directory import DRIVER_LOG, RunDirectory

pytestmark = pytest.mark.timeout(60)

SCRIPT = """
import subprocess, sys
from tfos.driver.own_log import kept
from tfos.lake.run_directory import RunDirectory

print("before", flush=True)
with kept(RunDirectory(sys.argv[1], "r")):
    print("printed")
    print("an error", file=sys.stderr)
    subprocess.run(["echo", "a child"], check=True)
    print("x" * 1_000_000)
print("after", flush=True)
"""


def run(lake):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, lake], capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_output_goes_to_both(tmp_path, scheme):
    lake = RunDirectory(str(tmp_path), "r")
    lake.write(DRIVER_LOG, b"of the driver before\n")
    stdout = run(f"{scheme}{tmp_path}")
    assert stdout.startswith("before\n")
    assert stdout.endswith("\nafter\n")
    assert {"printed", "an error", "a child", "x" * 1_000_000} < set(stdout.splitlines())
    if not scheme:  # what is in memory has gone with the process
        log = lake.read(DRIVER_LOG).decode()
        assert log == "of the driver before\n" + stdout[len("before\n") : -len("after\n")]


def test_lake_that_is_full_holds_up_nobody(tmp_path):
    lake = RunDirectory(str(tmp_path), "r")
    lake.write(DRIVER_LOG, b"")
    (tmp_path / "r" / DRIVER_LOG).unlink()
    (tmp_path / "r" / DRIVER_LOG).symlink_to("/dev/full")
    stdout = run(str(tmp_path))
    assert {"printed", "an error", "a child", "x" * 1_000_000, "after"} < set(stdout.splitlines())


def test_lake_that_takes_no_log_says_so(tmp_path):
    (tmp_path / "r").write_text("a file in its place")
    stdout = run(str(tmp_path))
    assert "printed\n" in stdout
