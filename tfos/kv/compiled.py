"""`kernel`: a function that numba compiles once for a machine, and that runs without Python's lock.

numba keeps compiled code for as long as the file that a function is in does not change. A change in
a function of another file, that it calls, would go unnoticed, so the code is kept in a directory
that is named for what all files with such functions contain.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import numba
except ImportError as error:
    raise ImportError(
        "the key-value store needs numba, on the driver's machine and those of executors:"
        " pip install 'tfos[kv]'"
    ) from error

_UNUSED_SECS = 30 * 24 * 3600.0


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles for `signature` and no other, when the module is imported.

    Arguments of another type raise TypeError; without a signature they would be compiled for in
    the middle of a run. Overflows of integers wrap around, and indices are not checked.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        with _cache():
            return numba.njit(signature, nogil=True, cache=True, error_model="numpy")(function)

    return decorate


# what kernels call: part of each of them
inlined = numba.njit(nogil=True, error_model="numpy")


@contextlib.contextmanager
def _cache() -> Iterator[None]:
    before = numba.config.CACHE_DIR
    if not before:  # a directory that the user names is the user's to clean up
        numba.config.CACHE_DIR = _DIRECTORY
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def _directory() -> str:
    """Ours in the user's cache; one of this process alone where there is none that can be written.

    (Not one that others could have made: what is in it is run.)
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        source = file.read_bytes()
        if b"tfos.kv.compiled" in source or file.name == "compiled.py":
            digest.update(source)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfos")
        directory = cache / f"kernels-{digest.hexdigest()[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        os.utime(directory)  # in use
        for other in cache.glob("kernels-*"):
            if time.time() - other.stat().st_mtime > _UNUSED_SECS:
                shutil.rmtree(other, ignore_errors=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(directory)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        directory = Path(tempfile.mkdtemp(prefix="tfos-kernels-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return str(directory)


_DIRECTORY = _directory()
