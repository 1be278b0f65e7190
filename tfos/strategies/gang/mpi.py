"""--mpi: the processes of a gang are the ranks of one MPI world, which Open MPI's mpirun makes.

mpirun, in rank 0, starts a daemon on each other machine, and each daemon its ranks. Here a daemon's
command goes, in place of ssh, to a process of the gang on that machine, and what is started for a
rank is a proxy, which hands that rank's environment to the process of the gang that has been there
all along. MPI_Init() there finds the daemon by it, as it does in a process that a shell is between.
So each process stays its supervisor's, whatever becomes of mpirun.
"""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import (
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from pathlib import Path

from tfos.errors import UsageError
from tfos.runtime.host import Host
from tfos.spec.roles import CHIEF
from tfos.strategies.gang import mpi_proxy
from tfos.strategies.gang.places import hosts_of
from tfos.strategies.gang.topology import DAEMON_GONE
from tfos.strategies.gang.world import PeerLost, World

_log = logging.getLogger(__name__)
_PYTHON = "TFOS_MPI_PYTHON"
# what Open MPI tells a process that it starts
_TOLD = ("OMPI_", "PMIX_", "PMI_", "ORTE_")
_POLL_SECS = 0.1
# a process whose proxy is gone ends itself after so long, unless its supervisor has done it
_LOST_SECS = 5.0
# for mpirun and its daemons, to end when all ranks have
_END_SECS = 10.0


class MpiEnded(RuntimeError):
    """mpirun, or a daemon of it, has ended before the processes of the gang."""


class Mpi:
    """A process's part of the MPI world of its gang, made by joined().

    environment: what MPI_Init() needs, and Horovod, where that is built with MPI.
    """

    def __init__(self, proxy: Connection, told: Mapping[str, str]) -> None:
        self._proxy, self._is_over = proxy, threading.Event()
        self.environment = {
            **{name: value for name, value in told.items() if name.startswith(_TOLD)},
            "HOROVOD_CONTROLLER": "mpi",
            "HOROVOD_CPU_OPERATIONS": "mpi",
        }
        threading.Thread(target=self._watch, name="mpi", daemon=True).start()

    def finish(self) -> None:
        """Ends MPI in this process, which waits for the others to do so, unless train() has."""
        _finalize()
        self._is_over.set()
        with contextlib.suppress(OSError):  # ended with mpirun, when all was done
            self._proxy.send_bytes(mpi_proxy.DONE)

    def _watch(self) -> None:
        """Without its daemon a rank may wait in MPI for ever."""
        with contextlib.suppress(EOFError, OSError):
            self._proxy.recv_bytes()
        if not self._is_over.wait(_LOST_SECS):
            print(
                "mpirun has ended this process's rank, as it does when another rank or a daemon has"
                " died: this process ends itself",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            os._exit(DAEMON_GONE)


@contextlib.contextmanager
def joined(host: Host, world: World) -> Iterator[Mpi]:
    """Makes this process a rank of MPI, the same one as in the gang, all of which calls this.

    Raises UsageError where Open MPI is not installed, MpiEnded where it fails, PeerLost.
    """
    rank, hosts = world.place.rank, hosts_of(host.addresses)
    here, scratch = hosts[rank], host.scratch
    # what an earlier life has left behind finds the same addresses
    secret = hmac.digest(host.secret, f"mpi {host.attempt}.{host.life}".encode(), "sha256")
    environment = {
        **os.environ,
        mpi_proxy.STORE: host.addresses[CHIEF][0],
        mpi_proxy.SECRET: secret.hex(),
        _PYTHON: sys.executable,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": scratch,
    }
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(Listener((here, 0)))
        world.tell(mpi_proxy.at(rank), f"{here}:{listener.address[1]}")
        daemon = None
        if rank == 0:
            _check("mpirun", here)
            # by its name: of a path it would have the daemons be in the same place
            command = ["mpirun", *_arguments(hosts, Path(scratch))]
            daemon = stack.enter_context(_running(command, environment))
        elif hosts.index(here) == rank:
            _check("orted", here)
            command = ["/bin/sh", "-c", _command(world, here, secret)]
            daemon = stack.enter_context(_running(command, environment))
        proxy, told = _accepted(listener, secret, daemon, here, rank == 0)
        stack.enter_context(proxy)
        # what ranks of a machine share goes with the process, as /dev/shm does not
        os.environ.setdefault("OMPI_MCA_btl_vader_backing_directory", scratch)
        mpi = Mpi(proxy, told)
        # nobody goes on, maybe into MPI_Init(), while another one still asks rank 0 for something
        world.meet("mpi")
        yield mpi


def _command(world: World, here: str, secret: bytes) -> str:
    """Of this machine's daemon. Raises PeerLost for one that is not of this life of the gang."""
    told = world.wait(mpi_proxy.daemon_of(here, secret))
    command = told.partition(" ")[2]
    signed = mpi_proxy.signed(here, command, secret)
    if not hmac.compare_digest(told.encode(), signed.encode()):
        raise PeerLost(f"the command for the MPI daemon of {here} is not this gang's")
    return command


def _arguments(hosts: Sequence[str], scratch: Path) -> list[str]:
    """Of mpirun: rank i is on the machine hosts[i]."""
    run = f'exec "${_PYTHON}" -m {mpi_proxy.__name__}'
    agent = scratch / "agent"
    agent.write_text(f'#!/bin/sh\n{run} agent "$@"\n')
    return [
        *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
        *("-n", str(len(hosts)), "--host", ",".join(hosts), "--map-by", "seq"),
        *("--oversubscribe", "--bind-to", "none", "--leave-session-attached"),
        *("--mca", "ras", "^slurm,gridengine,tm,lsf"),  # the gang's machines, whatever is given
        *("--mca", "plm", "rsh", "--mca", "plm_rsh_agent", f"/bin/sh {agent}"),
        *("--mca", "plm_rsh_no_tree_spawn", "1"),
        *("/bin/sh", "-c", f"{run} rank"),
    ]


def _check(program: str, host: str) -> None:
    if shutil.which(program) is None:
        raise UsageError(
            f"--mpi needs Open MPI on every machine, and {host} has no {program} in its PATH,"
            f" {os.environ.get('PATH')}: install it (Debian: openmpi-bin), or leave --mpi away,"
            " without which Horovod, PyTorch, JAX and XGBoost meet by gloo and the like"
        )


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """In this process's group, with which it ends at the latest; its words are in our log."""
    # SIGTERM to all of a machine is not to end MPI before a checkpoint is made
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        daemon = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield daemon
    # not where something was raised: this process has to tell of it before others end by this
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(_END_SECS)
        return
    daemon.kill()
    daemon.wait()


def _accepted(
    listener: Listener,
    secret: bytes,
    daemon: subprocess.Popen[bytes] | None,
    host: str,
    is_first: bool,
) -> tuple[Connection, Mapping[str, str]]:
    """This process's proxy, and its environment. daemon: ours, which it may come from."""
    found: queue.SimpleQueue[tuple[Connection, Mapping[str, str]] | OSError] = queue.SimpleQueue()

    def greet(proxy: Connection) -> None:
        try:
            deliver_challenge(proxy, secret)
            answer_challenge(proxy, secret)
            found.put((proxy, json.loads(proxy.recv_bytes())))
        except Exception as error:  # a stranger, whatever it says
            _log.warning("who has connected is no proxy of this rank's: %r", error)
            proxy.close()

    def accept() -> None:
        try:
            while True:
                proxy = listener.accept()
                threading.Thread(target=greet, args=(proxy,), daemon=True).start()
        except OSError as error:  # as when it is closed, and nobody looks here any more
            found.put(error)

    threading.Thread(target=accept, name="mpi proxy", daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty):
            got = found.get(timeout=_POLL_SECS)
            if isinstance(got, OSError):
                raise got
            return got
        if daemon is not None and daemon.poll() is not None:
            program = "mpirun" if is_first else "the daemon of mpirun"
            raise MpiEnded(
                f"{program} on {host} ended with status {daemon.returncode} before it had started"
                " all ranks; what it said is in the log of this process"
            )


def _finalize() -> None:
    """MPI_Finalize() of the MPI that is loaded here, where it was begun and is not over."""
    for name in ("horovod.tensorflow", "horovod.torch"):
        if name in sys.modules:  # a thread of it is in MPI
            sys.modules[name].shutdown()
    maps = Path("/proc/self/maps").read_text().splitlines()
    for path in {line.split(maxsplit=5)[5] for line in maps if "/libmpi.so" in line}:
        library, is_so = ctypes.CDLL(path), ctypes.c_int()
        library.MPI_Initialized(ctypes.byref(is_so))
        if is_so.value:
            library.MPI_Finalized(ctypes.byref(is_so))
            if not is_so.value:
                library.MPI_Finalize()
