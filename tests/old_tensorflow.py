"""A virtual environment with TensorFlow 2.15, the last one that has Estimator, and Keras 2.

It is made once, in ~/.cache/tfos-tests or the directory that TFOS_TESTS_TF215 names, and brought up
to date when pyproject.toml changes. tfos is installed in it from this tree.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from pythons import find_python

_ENV = "TFOS_TESTS_TF215"
_PYTHONS = ("3.11", "3.10")
_BUILD_SECS = 900


def _python() -> str:
    """An interpreter that TensorFlow 2.15 has wheels for."""
    found = next(filter(None, map(find_python, _PYTHONS)), None)
    if found is None:
        pytest.skip(f"TensorFlow 2.15 needs a Python of {_PYTHONS}, and none is here")
    return found


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(directory.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def old_tensorflow() -> Path:
    """The environment's directory. Skips the test where it cannot be made; may take minutes."""
    base = os.environ.get(_ENV)
    directory = Path(base) if base else Path.home() / ".cache" / "tfos-tests" / "tensorflow-2.15"
    python = directory / "bin" / "python"
    stamp = directory / ".tfos-installed"
    text = (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()
    wanted = hashlib.sha256(text).hexdigest()
    with _locked(directory):
        if stamp.is_file() and stamp.read_text() == wanted:
            return directory
        if not python.exists():
            subprocess.run([_python(), "-m", "venv", "--clear", str(directory)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--editable"]
        ended = subprocess.run(
            [*install, f"{ROOT}[estimator]"], capture_output=True, text=True, timeout=_BUILD_SECS
        )
        if ended.returncode:
            words = ended.stderr.strip().splitlines()[-3:]
            if "ResolutionImpossible" in ended.stderr:
                raise AssertionError("\n".join(words))
            pytest.skip(f"pip could not install tfos[estimator] into {directory}: {words}")
        stamp.write_text(wanted)
    return directory
