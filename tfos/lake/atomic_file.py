"""Local files that are there whole and durably, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def replace(target: Path, source: BinaryIO, is_secret: bool = False) -> None:
    """Puts a local file with the content of `source` in place: whole and durable, or not at all.

    is_secret: only its owner may read it, from the first byte on.
    """
    _make_dir(target.parent)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(
            os.open(part, os.O_WRONLY | os.O_CREAT, 0o600 if is_secret else 0o666), "wb"
        ) as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _sync_dir(target.parent)


def _make_dir(path: Path) -> None:
    """Makes a local directory and those above it that are missing, and their names durable."""
    if not path.is_dir():
        _make_dir(path.parent)
        path.mkdir(exist_ok=True)
        _sync_dir(path.parent)


def _sync_dir(path: Path) -> None:
    """Makes the names in a local directory durable, where its filesystem can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
