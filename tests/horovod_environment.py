"""A virtual environment with Horovod on TensorFlow 2.15 and Keras 2.

It is made once, in ~/.cache/tfos-tests or the directory that TFOS_TESTS_HOROVOD names. Horovod has
no wheels: it is built there, without MPI and without optimization, in minutes.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from old_tensorflow import install, made

_BUILD = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_DEBUG": "1",
    "MAKEFLAGS": "-j2",  # eight compilers at once, as it would have, need 8 GiB
}


def horovod() -> Path:
    """The environment's directory. Skips the test where it cannot be made."""
    return made("horovod-0.28", "TFOS_TESTS_HOROVOD", _add)


def _add(python: Path) -> None:
    probe = [str(python), "-c", "import horovod.tensorflow"]
    if subprocess.run(probe, capture_output=True).returncode == 0:
        return
    install(python, "setuptools<70", "wheel", "cmake<4", "packaging")
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])  # where cmake is now
    flags = ("--no-build-isolation", "--no-cache-dir")
    install(python, *flags, "horovod==0.28.1", env={**_BUILD, "PATH": path})
