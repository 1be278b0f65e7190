"""What mpirun and its daemons run, for a process of the gang that is there already. See mpi.py.

    python -m tfos.strategies.gang.mpi_proxy agent MACHINE COMMAND...
    python -m tfos.strategies.gang.mpi_proxy rank

The gang's store, and the run's secret, are in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Client

from tfos.strategies.gang.store import Store

STORE, SECRET = "TFOS_MPI_STORE", "TFOS_MPI_SECRET"
DONE = b"done"


def at(rank: int) -> str:
    """The key of where a rank's process waits for its proxy."""
    return f"mpi-rank-{rank}"


def daemon_of(host: str) -> str:
    """The key of the command of a machine's daemon."""
    return f"mpi-daemon-{host}"


def _agent(host: str, command: Sequence[str]) -> int:
    """In place of ssh, which gives these words to a shell over there."""
    Store(os.environ[STORE]).put(daemon_of(host), " ".join(command))
    return 0


def _rank() -> int:
    """Lives as long as the process of its rank, and ends as it does."""
    where = Store(os.environ[STORE]).wait(at(int(os.environ["OMPI_COMM_WORLD_RANK"])))
    host, _, port = where.rpartition(":")
    with Client((host, int(port)), authkey=bytes.fromhex(os.environ[SECRET])) as process:
        process.send_bytes(json.dumps(dict(os.environ)).encode())
        try:
            return 0 if process.recv_bytes() == DONE else 1
        except (EOFError, OSError):
            return 1


if __name__ == "__main__":
    sys.exit(_agent(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "agent" else _rank())
