"""The environment that this process runs in, with its interpreter."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from tfos.errors import PreflightError
from tfos.packing.archive import Told, fingerprint, write
from tfos.packing.interpreter import (
    PROGRAM,
    certificates,
    interpreter,
    libraries,
    packages_at,
    relocatable,
)
from tfos.packing.packages import packages, site_folders
from tfos.version import __version__


class OwnEnvironment:
    """Raises PreflightError where it cannot be moved, and OSError."""

    def __init__(self, version: int) -> None:
        self._files = interpreter()
        at = packages_at(self._files)
        self._files.update({**packages(site_folders(), at), **certificates(at)})
        if f"{at}/tfos/__init__.py" not in self._files:
            raise PreflightError(
                f"tfos is imported from {Path(__file__).parents[1]} and is not installed in"
                f" {sys.prefix}, which --pack makes an archive of: install it there, with pip"
            )
        self._needed = libraries(self._files)
        made_of = {**self._files, **self._needed.carried}
        glibc = "{}.{}".format(*self._needed.glibc)
        self.told: Told = {
            "fingerprint": fingerprint(made_of, version, sys.version, self._needed.along),
            "program": Path(PROGRAM).name, "prefix": sys.prefix,
            "python": platform.python_version(), "machine": platform.machine(), "glibc": glibc,
            "tfos": __version__,
        }  # fmt: skip
        self.runs_on = f"Linux on {platform.machine()} with glibc {glibc} or newer"

    def write(self, path: Path) -> None:
        """Writes the archive. Raises OSError."""
        write(path, {**self._files, **relocatable(self._files, self._needed)}, self.told)
