"""Other versions of Python on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def find_python(version: str) -> str | None:
    """The path of an interpreter of "3.11": on the PATH, or of pyenv; None where there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    own = sorted(root.glob(f"versions/{version}.*/bin/python{version}"))
    # pyenv's programs on the PATH are there for versions, too, that are not chosen, and fail
    for path in [shutil.which(f"python{version}"), *map(str, own)]:
        if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
            return path
    return None
