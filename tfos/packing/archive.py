"""The archive itself: what it was made of, and how it is written.

Its first member says of what it was made: whether another one is needed is known in no time.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tfos.packing.bytecode import compiled, compiled_at
from tfos.packing.files import Files
from tfos.packing.gzip_writer import GzipWriter

_ABOUT = "tfos-environment.json"
_READ_BYTES = 1 << 18

# what is told of an archive; its "fingerprint" is of what it was made of
Told = dict[str, Any]


def fingerprint(files: Files, *parts: object) -> str:
    """Of files as they are now, by name, size and time of change, and of what else counts."""
    digest = hashlib.sha256(repr(parts).encode())
    for at, file in sorted(files.items()):
        if isinstance(file, bytes):
            digest.update(repr((at, file)).encode())
        else:
            stat = os.stat(file)
            digest.update(repr((at, stat.st_size, stat.st_mtime_ns, stat.st_mode)).encode())
    return digest.hexdigest()


def about(path: Path) -> Told | None:
    """What write() was told of an archive; None where it did not make this file. Raises OSError."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            first = archive.next()
            if first is not None and first.name == _ABOUT and (file := archive.extractfile(first)):
                return dict(json.load(file))
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # and not gzip's, of what it reads
    return None


def write_with(path: Path, packed: Path, told: Told) -> None:
    """Writes an archive of what is told and the members of another one, as they are.

    Files of gzip may follow each other (RFC 1952), as may members of tar before its end. Raises
    OSError, and then leaves nothing.
    """
    with _replacing(path) as file, open(packed, "rb") as members:
        first = io.BytesIO()
        archive = tarfile.TarFile(None, "w", first, tarfile.GNU_FORMAT)
        _add(archive, _ABOUT, json.dumps(told).encode(), 0o644, time.time())
        file.write(gzip.compress(first.getvalue()))  # never closed: that would end the archive
        shutil.copyfileobj(members, file, _READ_BYTES)


def write(path: Path, files: Files, told: Told) -> None:
    """Writes the archive: whole, or not at all. Raises OSError, and then leaves nothing."""
    with _replacing(path) as file, GzipWriter(file) as packed:
        stream = cast("IO[bytes]", packed)
        archive = tarfile.TarFile(None, "w", stream, tarfile.GNU_FORMAT, copybufsize=_READ_BYTES)
        _add(archive, _ABOUT, json.dumps(told).encode(), 0o644, time.time())
        for at, source in sorted(files.items()):
            _add_file(archive, at, source)
        link = tarfile.TarInfo("bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, told["program"]
        archive.addfile(link)
        archive.close()


def _add_file(archive: tarfile.TarFile, at: str, source: Path | bytes) -> None:
    if isinstance(source, bytes):  # made here: of the interpreter, or its .pth files
        mode = 0o644 if at.endswith(".pth") else 0o755
        _add(archive, at, source, mode, time.time())
        return
    with open(source, "rb") as file:
        stat = os.fstat(file.fileno())
        entry = _entry(at, stat.st_size, 0o755 if stat.st_mode & 0o100 else 0o644, stat.st_mtime)
        archive.addfile(entry, file)
    if at.endswith(".py") and (code := compiled(source, at)) is not None:
        _add(archive, compiled_at(at), code, 0o644, stat.st_mtime)


def _add(archive: tarfile.TarFile, at: str, data: bytes, mode: int, changed: float) -> None:
    archive.addfile(_entry(at, len(data), mode, changed), io.BytesIO(data))


def _entry(at: str, size: int, mode: int, changed: float) -> tarfile.TarInfo:
    """Of nobody: who unpacks it owns it."""
    entry = tarfile.TarInfo(at)
    entry.size, entry.mode, entry.mtime = size, mode, int(changed)
    return entry


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends well; until then it has none, where the
    filesystem can do so, and nothing is left of it whatever ends the process."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        has_name = False
    except OSError:  # NFS
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        has_name = True
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            if not has_name:
                # with a src_dir_fd alone os.link follows a link; an absolute path does not use it
                os.link(f"/proc/self/fd/{descriptor}", part, src_dir_fd=descriptor)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
