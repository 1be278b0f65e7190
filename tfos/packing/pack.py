"""pl_submit --pack: an environment as an archive, made when it is not there or has changed."""

from __future__ import annotations

import contextlib
import errno
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from tfos.errors import PreflightError, UsageError
from tfos.packing.archive import Told, about
from tfos.packing.conda import CondaEnvironment, conda_prefix, is_conda
from tfos.packing.environment import OwnEnvironment
from tfos.packing.interpreter import check_machine

# the name of what an archive is made of, and how; a new one makes all archives anew
_FORMAT = 1


def pack(path: Path, tell: Callable[[str], None], conda: str | None = None) -> None:
    """Makes the archive, unless it is there and was made of the same environment.

    path: a file *.tar.gz. conda: the name or the folder of a conda environment, in place of the
    environment of this process. Raises PreflightError or UsageError; then it is as it was before.
    """
    check_machine()
    begun, before = time.monotonic(), _about(path)
    prefix = conda_prefix(conda) if conda else Path(sys.prefix)
    try:
        of_conda = is_conda(prefix)
        environment = CondaEnvironment(prefix, _FORMAT) if of_conda else OwnEnvironment(_FORMAT)
        if before is not None and before["fingerprint"] == environment.told["fingerprint"]:
            tell(f"{path} has this environment already")
            return
        tell(f"packing {prefix} into {path}{'' if before is None else ', as it has changed'}")
    except OSError as error:
        raise PreflightError(
            f"the environment {prefix} cannot be packed: {error.filename}: {error.strerror}"
        ) from error
    try:
        with _ended_in_order():
            environment.write(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    tell(
        f"{path}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begun:.0f} s; for"
        f" {environment.runs_on}"
    )


def _about(path: Path) -> Told | None:
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
