"""How the processes of a gang become ranks of MPI, with a stand-in for mpirun; without Spark."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from types import SimpleNamespace

import psutil
import pytest
from conftest import our_processes, poll
from gang_processes import Processes, app_of

from tfos.runtime.protocol import Progress
from tfos.strategies.gang.mpi import _accepted, _command
from tfos.strategies.gang.mpi_proxy import daemon_of, signed
from tfos.strategies.gang.topology import DAEMON_GONE
from tfos.strategies.gang.world import PeerLost

ROWS = 301
# starts a rank's command for each host, in groups of their own, as Open MPI does, and ends them all
# when it is told to by a file
_MPIRUN = """#!{python}
import os, subprocess, sys, time
hosts = sys.argv[sys.argv.index("--host") + 1].split(",")
ranks = []
for rank in range({starts} or len(hosts)):
    told = dict(OMPI_COMM_WORLD_RANK=str(rank), PMIX_RANK=str(rank), DISPLAY="of mpirun")
    env = dict(os.environ, **told)
    ranks.append(subprocess.Popen(sys.argv[-3:], env=env, start_new_session=True))
while any(rank.poll() is None for rank in ranks):
    time.sleep(0.02)
    if os.path.exists({stop!r}):
        for rank in ranks:
            rank.kill()
with open({ended!r}, "w") as file:
    file.write(" ".join(str(rank.wait()) for rank in ranks))
"""


@pytest.fixture
def mpirun(tmp_path, monkeypatch):
    """Puts a program of this text where mpirun is looked for."""

    def put(text):
        program = tmp_path / "bin" / "mpirun"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    return put


def stand_in(tmp_path, starts=None):
    """starts: so many ranks only."""
    stop, ended = str(tmp_path / "stop"), str(tmp_path / "ended")
    return _MPIRUN.format(python=sys.executable, stop=stop, ended=ended, starts=starts)


def counting(**arguments):
    return app_of("gang_counts", "GangCounts", **{"epochs": 1, "step_secs": 0.0, **arguments})


def is_accepted(gang):
    """Whether a proxy is connected with a process of the gang, besides its store."""
    pids = [pid for pid, line in our_processes().items() if "mpi_proxy rank" in line]
    stores = gang._addresses["chief"]
    return any(
        made.status == psutil.CONN_ESTABLISHED
        and f"{made.raddr.ip}:{made.raddr.port}" not in stores
        for pid in pids
        for made in psutil.Process(pid).net_connections()
    )


def test_each_is_the_rank_that_it_is_in_the_gang(tmp_path, mpirun):
    mpirun(stand_in(tmp_path))
    with Processes(tmp_path, counting(), 3, ROWS, mpi=True) as gang:
        gang.begin()
        ends = [gang.ended(rank) for rank in range(3)]
        assert [status for _, status in ends] == [0, 0, 0], gang.logs
        assert ends[0][0].outcome["metrics"]["met"] == ["0/3 mpi", "1/3 mpi", "2/3 mpi"]
    assert (tmp_path / "ended").read_text() == "0 0 0"


def test_proxies_end_with_their_processes(tmp_path, mpirun):
    mpirun(stand_in(tmp_path))
    with Processes(tmp_path, counting(epochs=10_000), 2, ROWS, mpi=True) as gang:
        gang.begin()
        gang.wait(lambda r, m: r == 0 and isinstance(m, Progress), "they train")
        for rank in range(2):
            gang.signal(rank, signal.SIGKILL)
    poll(lambda: not any("mpi_proxy" in line for line in our_processes().values()), 20, "they end")


def test_a_process_without_its_proxy_ends_itself(tmp_path, mpirun):
    mpirun(stand_in(tmp_path))
    with Processes(tmp_path, counting(epochs=10_000, step_secs=0.01), 2, ROWS, mpi=True) as gang:
        gang.begin()
        gang.wait(lambda r, m: r == 0 and isinstance(m, Progress), "it trains")
        (tmp_path / "stop").touch()
        statuses = {gang.ended(rank)[1] for rank in range(2)}
        assert DAEMON_GONE in statuses, gang.logs
        assert "mpirun has ended this process's rank" in gang.logs
    poll(lambda: (tmp_path / "ended").exists(), 10, "the stand-in has ended")


def test_an_mpirun_that_ends_while_ranks_are_missing_ends_those_that_are_there(tmp_path, mpirun):
    mpirun(stand_in(tmp_path, starts=1))
    with Processes(tmp_path, counting(), 2, ROWS, mpi=True) as gang:
        gang.begin()
        poll(lambda: is_accepted(gang), 20, "rank 0 has its proxy")
        (tmp_path / "stop").touch()
        assert gang.ended(0) == (None, DAEMON_GONE)


def test_strangers_are_not_taken_for_the_proxy():
    secret = b"of this life"
    with Listener(("127.0.0.1", 0)) as listener:
        address = listener.address
        found = []
        thread = threading.Thread(
            target=lambda: found.append(_accepted(listener, secret, None, "here", False)),
            daemon=True,
        )
        thread.start()
        silent = socket.create_connection(address)
        socket.create_connection(address).close()
        with socket.create_connection(address) as web:
            web.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((AuthenticationError, EOFError, OSError)):
            Client(address, authkey=b"of another life")
        with Client(address, authkey=secret) as proxy:
            proxy.send_bytes(b'{"OMPI_COMM_WORLD_RANK": "1"}')
            thread.join(20)
        ((connection, told),) = found
        assert told == {"OMPI_COMM_WORLD_RANK": "1"}
        connection.close()
        silent.close()


def test_a_command_that_is_not_of_this_life_is_not_run():
    keys = {}
    world = SimpleNamespace(wait=keys.get)
    keys[daemon_of("h", b"now")] = signed("h", "orted é", b"now")
    assert _command(world, "h", b"now") == "orted é"
    for forged in (signed("h", "orted", b"before"), signed("other", "orted", b"now"), "rm é"):
        keys[daemon_of("h", b"now")] = forged
        with pytest.raises(PeerLost, match="is not this gang's"):
            _command(world, "h", b"now")


def test_an_mpirun_that_fails_is_the_cause(tmp_path, mpirun):
    mpirun("#!/bin/sh\necho no such option >&2\nexit 3\n")
    with Processes(tmp_path, counting(), 2, ROWS, mpi=True) as gang:
        gang.begin()
        failed, status = gang.ended(0)
        assert status == 1
        assert failed.message == (
            "MpiEnded: mpirun on 127.0.0.1 ended with status 3 before it had started all ranks;"
            " what it said is in the log of this process"
        )
        assert "no such option" in gang.logs


def test_without_open_mpi_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with Processes(tmp_path, counting(), 1, ROWS, mpi=True) as gang:
        gang.begin()
        failed, _ = gang.ended(0)
    assert f"127.0.0.1 has no mpirun in its PATH, {tmp_path}: install it" in failed.message
