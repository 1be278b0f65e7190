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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from conftest import ROOT
from pythons import find_python

# SPARK_HOME of the newer one, and what pl_submit and the tests set for it
NOT_FOR_IT = ("SPARK_HOME", "SPARK_SUBMIT_OPTS", "SPARK_DAEMON_JAVA_OPTS", "PYTHONPATH")
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
    return made("tensorflow-2.15", "TFOS_TESTS_TF215")


def made(name: str, variable: str, add: Callable[[Path], None] = lambda python: None) -> Path:
    """An environment with tfos[estimator], in its place or the directory that `variable` names.

    add: installs what else belongs into it, given its interpreter.
    """
    base = os.environ.get(variable)
    directory = Path(base) if base else Path.home() / ".cache" / "tfos-tests" / name
    python = directory / "bin" / "python"
    stamp = directory / ".tfos-installed"
    text = (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()
    wanted = hashlib.sha256(text).hexdigest()
    with _locked(directory):
        if stamp.is_file() and stamp.read_text() == wanted:
            return directory
        if not python.exists():
            subprocess.run([_python(), "-m", "venv", "--clear", str(directory)], check=True)
        install(python, "--editable", f"{ROOT}[estimator]")
        add(python)
        stamp.write_text(wanted)
    return directory


def install(python: Path, *argv: str, env: Mapping[str, str] | None = None) -> None:
    """What pip does of these arguments; skips the test where that fails."""
    ended = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *argv],
        capture_output=True, text=True, timeout=_BUILD_SECS, env={**os.environ, **(env or {})},
    )  # fmt: skip
    if ended.returncode:
        words = ended.stderr.strip().splitlines()[-3:]
        if "ResolutionImpossible" in ended.stderr:
            raise AssertionError("\n".join(words))
        pytest.skip(f"pip could not install {argv[-1]} for {python}: {words}")


def within(directory: Path) -> Callable[..., list[str]]:
    """Makes a command of pl_submit one of the environment's, for submit() and Run()."""
    python = str(directory / "bin" / "python")
    env = ["env", *(f"--unset={name}" for name in NOT_FOR_IT)]
    env += [f"PYSPARK_PYTHON={python}", f"PYSPARK_DRIVER_PYTHON={python}"]
    return lambda _, *argv: [*env, python, "-m", "tfos.cli", *argv]
