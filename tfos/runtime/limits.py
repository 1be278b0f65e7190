"""Limits of an executor's processes under which TensorFlow cannot start. Linux's, see getrlimit(2).

Only what is too little for any run is refused: what is enough depends on the model and the machine.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from tfos.fault.failures import ADDRESS_SPACE_REMEDY

# TensorFlow 2.21 on two cores reserves 2.7 GiB of address space for the smallest fit (it aborts
# with 2.5), and 3.2 GiB for a server of --strategy ps; with more cores more.
_ADDRESS_SPACE_BYTES = 5 << 29
# a role has some tens, and a connection to each of the others
_FILES = 128
# a server of TensorFlow has 95 threads on two cores, beside the 60 of an executor's JVM
_THREADS = 160


def read_limits() -> dict[str, int]:
    """The limits of this process that there are: name of getrlimit -> value."""
    limits = {
        name: resource.getrlimit(getattr(resource, name))[0]
        for name in ("RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_NPROC")
    }
    if os.geteuid() == 0:  # whom it does not bind
        del limits["RLIMIT_NPROC"]
    return {name: value for name, value in limits.items() if value != resource.RLIM_INFINITY}


def what_is_too_low(limits: Mapping[str, int]) -> str | None:
    """Which of read_limits() no role can start with, and the remedy: after "executor host X "."""
    space = limits.get("RLIMIT_AS", _ADDRESS_SPACE_BYTES)
    if space < _ADDRESS_SPACE_BYTES:
        return (
            f"lets a Python process have {space / 2**30:.2f} GiB of address space (RLIMIT_AS), and"
            f" TensorFlow needs {_ADDRESS_SPACE_BYTES / 2**30:g} GiB to start:"
            f" {ADDRESS_SPACE_REMEDY}"
        )
    files = limits.get("RLIMIT_NOFILE", _FILES)
    if files < _FILES:
        return (
            f"lets a process open {files} files (RLIMIT_NOFILE), and a role needs {_FILES}: raise"
            " it there for who runs the executors, e.g. with `ulimit -n` or LimitNOFILE="
        )
    threads = limits.get("RLIMIT_NPROC", _THREADS)
    if threads < _THREADS:
        return (
            f"lets its user have {threads} threads (RLIMIT_NPROC), and an executor with one role"
            f" needs {_THREADS}: raise it there for who runs the executors, e.g. with `ulimit -u`"
            " or LimitNPROC="
        )
    return None
