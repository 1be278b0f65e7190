"""Where compiled kernels are kept, and that they are those of the source as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tfos

pytestmark = pytest.mark.timeout(60)
HELPER = """
from tfos.kv.compiled import inlined

@inlined
def rate():
    return {}
"""
KERNEL = """
from tfos.kv.compiled import kernel
from tfos.kv.helper import rate

@kernel("i8()")
def update():
    return rate()
"""


@pytest.fixture
def package(tmp_path):
    """A tfos of compiled.py, a kernel, and a helper in another file that the kernel is made of."""
    room = tmp_path / "tfos" / "kv"
    room.mkdir(parents=True)
    for name in ("__init__.py", "kv/__init__.py"):
        (tmp_path / "tfos" / name).touch()
    shutil.copy(Path(tfos.__file__).parent / "kv" / "compiled.py", room)
    (room / "helper.py").write_text(HELPER.format(1))
    (room / "update.py").write_text(KERNEL)
    (tmp_path / "tmp").mkdir()
    return room


def run(package, **environment):
    root = package.parent.parent
    code = "from tfos.kv.update import update as u; print(u(), sum(u.stats.cache_hits.values()))"
    found = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(root / "tmp"), **environment},
        cwd=root,
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert not list((root / "tmp").iterdir())
    return found.stdout.split()


def test_a_change_in_a_helper_is_seen(package, tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run(package, **cache) == ["1", "0"]
    assert run(package, **cache) == ["1", "1"]  # not compiled again
    (package / "helper.py").write_text(HELPER.format(2))
    assert run(package, **cache) == ["2", "0"]


def test_without_a_home_that_can_be_written(package):
    cache = {"XDG_CACHE_HOME": "", "HOME": "/proc/none"}
    assert run(package, **cache) == ["1", "0"]
    assert not list(package.rglob("*.nbi"))
