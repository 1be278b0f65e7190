"""A conda environment as an archive: conda-pack makes it, which knows how conda installs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tfos.errors import PreflightError, UsageError
from tfos.packing.archive import Told, fingerprint, write_with
from tfos.packing.files import tree
from tfos.version import __version__

# where conda, mamba and micromamba note each environment that they make
_KNOWN = Path("~/.conda/environments.txt")
_LOOK_SECS = 60
_ABOUT = "import platform, tfos; print(platform.python_version(), tfos.__version__)"


def conda_prefix(name: str) -> Path:
    """The folder of an environment, by its name or its path. Raises UsageError."""
    if is_conda(Path(name)):
        return Path(name).absolute()
    known = _KNOWN.expanduser()
    prefixes = known.read_text().splitlines() if known.exists() else []
    found = [Path(each) for each in prefixes if Path(each).name == name and is_conda(Path(each))]
    if len(found) == 1:
        return found[0]
    several = f"there are several: {', '.join(map(str, found))}"
    raise UsageError(
        f"--conda {name}: {several if found else f'no conda environment has this name in {known}'};"
        " pass the path of its folder"
    )


def is_conda(prefix: Path) -> bool:
    return (prefix / "conda-meta").is_dir()


class CondaEnvironment:
    """Raises PreflightError where tfos is missing in it, and OSError."""

    def __init__(self, prefix: Path, version: int) -> None:
        self.prefix = prefix
        self._python, theirs = self._ask()
        if theirs != __version__:
            raise PreflightError(
                f"the conda environment {prefix} has tfos {theirs}, and this is tfos {__version__}:"
                " install the same one there"
            )
        made_of = fingerprint(dict(tree(prefix, ".")), version, str(prefix))
        self.told: Told = {
            "fingerprint": made_of, "prefix": str(prefix), "python": self._python,
            "machine": platform.machine(), "tfos": __version__,
        }  # fmt: skip
        self.runs_on = f"Linux on {platform.machine()}, as conda's packages do"

    def _ask(self) -> tuple[str, str]:
        python = str(self.prefix / "bin" / "python")
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        try:
            ended = subprocess.run(
                [python, "-c", _ABOUT], capture_output=True, text=True, cwd="/", env=env,
                timeout=_LOOK_SECS,
            )  # fmt: skip
        except OSError as error:
            raise PreflightError(f"{self.prefix} has no Python: conda install python") from error
        if ended.returncode != 0:
            raise PreflightError(
                f"the conda environment {self.prefix} cannot import tfos"
                f" ({ended.stderr.strip().splitlines()[-1]}): install it there with"
                f" {python} -m pip install"
            )
        version, theirs = ended.stdout.split()
        return version, theirs

    def write(self, path: Path) -> None:
        """Writes the archive. Raises PreflightError for what conda-pack refuses, and OSError."""
        beside = Path(sysconfig.get_path("scripts")), self.prefix / "bin"
        command = shutil.which("conda-pack", path=os.pathsep.join(map(str, beside)))
        command = command or shutil.which("conda-pack")
        if command is None:
            raise PreflightError(
                f"--pack needs conda-pack for {self.prefix}: install it with"
                f" {sys.executable} -m pip install conda-pack"
            )
        with tempfile.TemporaryDirectory(prefix=".tfos-pack-", dir=path.parent) as scratch:
            packed = Path(scratch, "packed.tar.gz")
            ended = subprocess.run(
                [command, "--prefix", str(self.prefix), "--output", str(packed), "--quiet"]
                + ["--compress-level", "1", "--n-threads", "-1"],
                capture_output=True, text=True, env={**os.environ, "TMPDIR": scratch},
            )  # fmt: skip
            if ended.returncode != 0:
                said = " ".join((ended.stderr or ended.stdout).split())
                raise PreflightError(f"conda-pack cannot pack {self.prefix}: {said}")
            write_with(path, packed, self.told)
