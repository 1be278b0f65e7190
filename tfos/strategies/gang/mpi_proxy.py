"""What mpirun and its daemons run, for a process of the gang that is there already. See mpi.py.

    python -m tfos.strategies.gang.mpi_proxy agent MACHINE COMMAND...
    python -m tfos.strategies.gang.mpi_proxy rank

Where the gang's store is, and a secret of this life of the gang, is in the environment.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Client

from tfos.strategies.gang.store import Store

STORE, SECRET = "TFOS_MPI_STORE", "TFOS_MPI_SECRET"
DONE = b"done"
_START_SECS, _LOOK_SECS = 60.0, 1.0


def at(rank: int) -> str:
    """The key of where a rank's process waits for its proxy."""
    return f"mpi-rank-{rank}"


def daemon_of(host: str, secret: bytes) -> str:
    """The key of the command of a machine's daemon; an agent may outlive its life of the gang."""
    return f"mpi-daemon-{hmac.new(secret, host.encode(), 'sha256').hexdigest()}"


def signed(host: str, command: str, secret: bytes) -> str:
    """The command, and that it is of this life of the gang and for this machine: strangers can
    write into the store.
    """
    proof = hmac.new(secret, f"{host} {command}".encode(), "sha256").hexdigest()
    return f"{proof} {command}"


def _agent(host: str, command: Sequence[str], secret: bytes) -> int:
    """In place of ssh, which gives these words to a shell over there."""
    Store(os.environ[STORE]).put(daemon_of(host, secret), signed(host, " ".join(command), secret))
    return 0


def _rank(secret: bytes) -> int:
    """Lives as long as the process of its rank and the daemon, and ends as the process does."""
    # it comes to the process as well, which has a checkpoint made first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    daemon = os.getppid()
    where = Store(os.environ[STORE]).wait(at(int(os.environ["OMPI_COMM_WORLD_RANK"])), _START_SECS)
    host, _, port = where.rpartition(":")
    with Client((host, int(port)), authkey=secret) as process:
        process.send_bytes(json.dumps(dict(os.environ)).encode())
        try:
            while not process.poll(_LOOK_SECS):
                if os.getppid() != daemon:
                    return 1
            return 0 if process.recv_bytes() == DONE else 1
        except (EOFError, OSError):
            return 1


def _main(what: str, *words: str) -> int:
    secret = bytes.fromhex(os.environ[SECRET])
    return _agent(words[0], words[1:], secret) if what == "agent" else _rank(secret)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
