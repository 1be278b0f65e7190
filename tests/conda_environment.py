"""A conda environment, as rattler, which is pixi's, makes it of a channel on this disk.

The package is this machine's own Python, so that no channel of conda's is needed. What makes an
environment conda's, its records and their files' links to the package cache, is rattler's.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from pathlib import Path

import rattler
from rattler.index import index_fs

import tfos
from tfos.packing.interpreter import interpreter, libraries, relocatable

_SUBDIR = "linux-64" if platform.machine() == "x86_64" else "linux-aarch64"
_VERSION = platform.python_version()


def make_conda_environment(prefix: Path, home: Path) -> None:
    """home: of the user, where conda notes its environments; the channel and cache lie there."""
    channel = home / "channel"
    (channel / _SUBDIR).mkdir(parents=True)
    _package(channel / _SUBDIR / f"python-{_VERSION}-0.tar.bz2")
    asyncio.run(_install(channel, prefix, home / "pkgs"))
    known = home / ".conda" / "environments.txt"
    known.parent.mkdir()
    known.write_text(f"{prefix}\n")


async def _install(channel: Path, prefix: Path, cache: Path) -> None:
    await index_fs(channel)
    records = await rattler.solve([channel.as_uri()], ["python"], platforms=[_SUBDIR])
    await rattler.install(records, prefix, cache_dir=cache, show_progress=False)


def _package(path: Path) -> None:
    """This Python as a conda package."""
    files = interpreter()
    files.update(relocatable(files, libraries(files)))
    paths = []
    with tarfile.open(path, "w:bz2", compresslevel=1) as archive:

        def add(at: str, data: bytes, mode: int) -> None:
            entry = tarfile.TarInfo(at)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        for at, source in files.items():
            data = source if isinstance(source, bytes) else source.read_bytes()
            is_program = isinstance(source, bytes) or os.access(source, os.X_OK)
            add(at, data, 0o755 if is_program else 0o644)
            digest = hashlib.sha256(data).hexdigest()
            paths.append(
                {"_path": at, "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(data)}
            )
        link = tarfile.TarInfo("bin/python")
        link.type = tarfile.SYMTYPE
        link.linkname = next(Path(at).name for at in files if at.startswith("bin/"))
        archive.addfile(link)
        paths.append({"_path": "bin/python", "path_type": "softlink"})
        index = {
            "name": "python", "version": _VERSION, "build": "0", "build_number": 0, "depends": [],
            "subdir": _SUBDIR,
        }  # fmt: skip
        add("info/index.json", json.dumps(index).encode(), 0o644)
        add("info/paths.json", json.dumps({"paths_version": 1, "paths": paths}).encode(), 0o644)
        add("info/files", "".join(f"{each['_path']}\n" for each in paths).encode(), 0o644)


def install_tfos(prefix: Path, is_editable: bool = False) -> Path:
    """tfos as pip installs it, without what it requires; returns the folder of packages."""
    (site,) = prefix.glob("lib/python3.*")
    site = site / "site-packages"
    shutil.copytree(Path(tfos.__file__).parent, site / "tfos", dirs_exist_ok=True)
    info = site / f"tfos-{tfos.__version__}.dist-info"
    info.mkdir(exist_ok=True)
    told = f"Metadata-Version: 2.1\nName: tfos\nVersion: {tfos.__version__}\n"
    (info / "METADATA").write_text(told)
    url = {"url": prefix.as_uri(), "dir_info": {"editable": is_editable}}
    (info / "direct_url.json").write_text(json.dumps(url))
    return site
