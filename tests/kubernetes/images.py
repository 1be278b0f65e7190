"""Images of a few files, without an engine: archives as `docker save` writes them."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import ROOT

from tfos.runtime.java import find_java, spark_home


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, Path | bytes],
    entrypoint: Sequence[str],
    *,
    links: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
) -> None:
    """An image of one layer.

    files: path in the image -> the file that is to be there, or its bytes. directory: where its
    processes start.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, target in (links or {}).items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for path, source in files.items():
            _add(tar, path, source if isinstance(source, bytes) else source.read_bytes())
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint),
            "Env": [f"{key}={value}" for key, value in (environment or {}).items()],
            "WorkingDir": directory,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "manifest.json", json.dumps(manifest).encode())


# of the machine, below / of the pods that run in `write_machine_image`
_MACHINE = ("/usr", "/etc/ssl", "/etc/alternatives", *map(str, Path("/etc").glob("java-*")))


def write_machine_image(archive: Path, name: str) -> None:
    """An image that has our entrypoint and nothing else: see on_machine()."""
    java = Path(find_java()).resolve().parents[1]
    write_image(
        archive,
        name,
        {
            "opt/entrypoint": ROOT / "docker" / "entrypoint",
            "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nspark:x:185:185::/tmp:/bin/bash\n",
            "etc/group": b"root:x:0:\nspark:x:185:\n",
        },
        ["/opt/entrypoint"],
        links={folder: f"usr/{folder}" for folder in ("bin", "sbin", "lib", "lib64")},
        environment={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "JAVA_HOME": str(java),
            "SPARK_HOME": str(spark_home()),
        },
        directory="/opt/spark/work-dir",
    )


def on_machine(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A pod, or a template of one, with this machine's programs and this checkout in its container.

    For the image of write_machine_image(): images of whole systems take minutes to build and to
    load.
    """
    spec = json.loads(json.dumps(pod["spec"]))
    for number, path in enumerate((*_MACHINE, sys.base_prefix, str(ROOT))):
        volume = {"name": f"machine-{number}", "hostPath": {"path": path}}
        spec.setdefault("volumes", []).append(volume)
        mount = {"name": f"machine-{number}", "mountPath": path, "readOnly": True}
        spec["containers"][0].setdefault("volumeMounts", []).append(mount)
    return {**pod, "spec": spec}
