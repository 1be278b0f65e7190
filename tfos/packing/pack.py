"""pl_submit --pack: the environment that this process runs in, as an archive."""

from __future__ import annotations

import contextlib
import errno
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tfos.errors import PreflightError, UsageError
from tfos.packing.archive import about, fingerprint, write
from tfos.packing.interpreter import (
    PROGRAM,
    certificates,
    check_machine,
    interpreter,
    libraries,
    packages_at,
    relocatable,
)
from tfos.packing.packages import packages, site_folders
from tfos.version import __version__

# the name of what an archive is made of, and how; a new one makes all archives anew
_FORMAT = 1


def pack(path: Path, tell: Callable[[str], None]) -> None:
    """Makes the archive, unless it is there and was made of the same environment.

    path: a file *.tar.gz. Raises PreflightError; then it is as it was before.
    """
    check_machine()
    begun, before = time.monotonic(), _about(path)
    try:
        files = interpreter()
        at = packages_at(files)
        files.update({**packages(site_folders(), at), **certificates(at)})
        if f"{at}/tfos/__init__.py" not in files:
            raise PreflightError(
                f"tfos is imported from {Path(__file__).parents[1]} and is not installed in"
                f" {sys.prefix}, which --pack makes an archive of: install it there, with pip"
            )
        needed = libraries(files)
        made_of = fingerprint({**files, **needed.carried}, _FORMAT, sys.version, needed.along)
        if before is not None and before["fingerprint"] == made_of:
            tell(f"{path} has this environment already")
            return
        tell(f"packing {sys.prefix} into {path}{'' if before is None else ', as it has changed'}")
        files.update(relocatable(files, needed))
    except OSError as error:
        raise PreflightError(
            f"the environment {sys.prefix} cannot be packed: {error.filename}: {error.strerror}"
        ) from error
    told = {
        "fingerprint": made_of, "program": Path(PROGRAM).name, "prefix": sys.prefix,
        "python": platform.python_version(), "machine": platform.machine(),
        "glibc": "{}.{}".format(*needed.glibc), "tfos": __version__,
    }  # fmt: skip
    try:
        with _ended_in_order():
            write(path, files, told)
    except OSError as error:
        raise _cannot_write(path, error) from error
    tell(
        f"{path}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begun:.0f} s; for"
        f" Linux on {told['machine']} with glibc {told['glibc']} or newer"
    )


def _about(path: Path) -> dict[str, Any] | None:
    """What is known of the archive that is there, if one is."""
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(f"--pack {path}: the archive's name must end with .tar.gz")
    if not path.parent.is_dir():
        raise UsageError(f"--pack {path}: there is no folder {path.parent}")
    try:
        if not path.exists():
            return None
        known = about(path)
    except OSError as error:
        raise PreflightError(f"--pack {path}: it cannot be read: {error.strerror}") from error
    if known is None:
        raise UsageError(
            f"--pack {path}: there is a file that pl_submit has not made, or that is damaged: name"
            " another one, or remove it"
        )
    return known


def _cannot_write(path: Path, error: OSError) -> PreflightError:
    free = shutil.disk_usage(path.parent).free / 1e6
    room = f" ({free:.0f} MB are free)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    of_what = f": {error.filename}" if error.filename else ""  # one may have been removed meanwhile
    return PreflightError(
        f"--pack {path}: it cannot be written: {error.strerror or error}{of_what}{room}"
    )


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with nothing left behind."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
