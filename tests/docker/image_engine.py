"""Builds and runs the image by buildah and podman, on a base of Debian's packages.

No registry of images is needed. All that they keep lies below one directory, which goes with the
tests; the base's files are kept in the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

# as docker/Dockerfile names its base by default: what stands in for it has its Python
BASE = "docker.io/library/python:3.11-slim-bookworm"
_SUITE, _PACKAGES = "bookworm", "ca-certificates,python3,python3-venv"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfos-tests", "image")
_TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
_DISK_GB = 12  # the stages of a build, their layers, and one layer built anew


def require() -> None:
    """Skips the test where images cannot be built and run."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install {' '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("needs root, to make the base image")
    if shutil.disk_usage(tempfile.gettempdir()).free < _DISK_GB * 1e9:
        pytest.skip(f"needs {_DISK_GB} GB in {tempfile.gettempdir()}")


def _base() -> Path:
    """The files of the base image as a tar archive; made on first use."""
    archive = _CACHE / f"{_SUITE}.tar"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(f".{os.getpid()}.tar")
        command = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(part)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"mmdebstrap cannot make a base image: {made.stderr[-500:]}")
        part.rename(archive)
    return archive


class ImageEngine:
    def __init__(self, home: Path) -> None:
        self._home = home
        conf = home / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run"\n'
        )
        # chroot: a build needs no cgroup of its own, which not every machine lets it have
        self._environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(conf),
            "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(home),
            "ENGINE": "buildah",
        }
        self._run("podman", "import", "--quiet", str(_base()), BASE)

    def _run(self, *argv: str, secs: float = 120) -> str:
        ended = subprocess.run(
            argv, env=self._environment, capture_output=True, text=True, timeout=secs
        )
        assert ended.returncode == 0, f"{argv}: {ended.stdout[-3000:]}\n{ended.stderr[-5000:]}"
        return ended.stdout

    def build(self, tag: str, *options: str, root: Path = ROOT) -> str:
        """What docker/build prints. root: the checkout."""
        build = str(root / "docker" / "build")
        return self._run(build, tag, "--network", "host", *options, secs=1500)

    def megabytes(self, tag: str) -> float:
        return int(self._run("podman", "image", "inspect", "--format", "{{.Size}}", tag)) / 1e6

    def layers(self, tag: str) -> list[str]:
        shown = self._run(
            "podman", "image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", tag
        )
        return shown.split()

    def run(self, tag: str, *command: str, options: tuple[str, ...] = (), secs: float = 500) -> str:
        """What a container prints: as in a pod that may write to /tmp alone."""
        return self._run(
            "podman", "run", "--rm", "--runtime", "runc", "--network", "host", "--read-only",
            "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,mode=1777,size=2g",
            # no limit above this process's own, which it may not be allowed
            "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000",
            *options, tag, *command, secs=secs,
        )  # fmt: skip

    def close(self) -> None:
        self._run("podman", "rm", "--all", "--force")
        self._run("podman", "rmi", "--all", "--force")
        # what mounts of its layers are left would be in the way
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self._home}/"):
                self._run("umount", line.split()[1])
        shutil.rmtree(self._home)
