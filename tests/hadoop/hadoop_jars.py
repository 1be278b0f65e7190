"""Hadoop's jars: Maven fetches them once, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_POM = Path(__file__).with_name("pom.xml")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfos-tests", "hadoop")
_FETCH_SECS = 300


def jars() -> Path:
    """The folder of Hadoop's jars; fetched on first use. Skips the test where Maven is missing."""
    folder = _CACHE / "jars"
    done = _CACHE / hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    if done.exists():
        return folder
    if shutil.which("mvn") is None:
        pytest.skip("Hadoop's jars are not here, and without Maven (mvn) cannot be fetched")
    _CACHE.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECS)
    except subprocess.TimeoutExpired:
        pytest.skip(
            f"Maven has not fetched Hadoop's jars within {_FETCH_SECS} s; it goes on next time"
        )
    if fetched.returncode != 0:
        pytest.skip(f"Maven cannot fetch Hadoop's jars: {fetched.stdout[-500:]}")
    done.touch()
    return folder
