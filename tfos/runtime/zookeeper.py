"""The embedded ZooKeeper: one server process out of the jars that pyspark ships."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from tfos.errors import RegistryError
from tfos.runtime.java import find_java, spark_home
from tfos.runtime.process import ChildProcess

_START_TIMEOUT_SECS = 30.0
_PORT_TRIES = 5


class EmbeddedZooKeeper:
    """A ZooKeeper server on `host` and a free port, its data in a temporary directory.

    host: the address that it listens on and that other processes reach it by.
    It ends, and its directory goes, by stop() or with the process that started it.
    Raises RegistryError when it does not come up.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        java = find_java()
        # ZooKeeper cannot take over a held port; when another process wins it meanwhile, try again
        for _ in range(_PORT_TRIES):
            if self._start(java):
                return
        raise RegistryError(
            f"the embedded ZooKeeper found no port on {host} in {_PORT_TRIES} tries; it said:"
            f" {self._last_words}; use a server of your own: --zookeeper HOST:PORT"
        )

    @property
    def hosts(self) -> str:
        return f"{self.host}:{self._port}"

    def _start(self, java: str) -> bool:
        with socket.socket() as probe:
            try:
                probe.bind((self.host, 0))
            except OSError as error:
                raise RegistryError(
                    f"the embedded ZooKeeper cannot listen on {self.host}: {error}; set"
                    " spark.driver.host to an address of this machine, or use a server of your own:"
                    " --zookeeper HOST:PORT"
                ) from error
            self._port = probe.getsockname()[1]
        scratch = tempfile.mkdtemp(prefix="tfos-zookeeper-")
        config = Path(scratch, "zoo.cfg")
        config.write_text(
            f"tickTime=500\ndataDir={scratch}/data\nclientPort={self._port}\n"
            f"clientPortAddress={self.host}\nadmin.enableServer=false\nmaxClientCnxns=0\n"
            "maxSessionTimeout=60000\n"
        )
        log = Path(scratch, "log")
        with open(log, "wb") as sink:
            self._process = ChildProcess(
                [
                    java,
                    "-Xmx512m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    # its data need to survive the process, not the machine: a busy disk must not
                    # hold up every session behind an fsync
                    "-Dzookeeper.forceSync=no",
                    "-cp",
                    str(spark_home() / "jars" / "*"),
                    "org.apache.zookeeper.server.ZooKeeperServerMain",
                    str(config),
                ],
                env=os.environ,
                log=sink.fileno(),
                scratch=scratch,
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._serves():
                return True
            time.sleep(0.05)
        self._last_words = log.read_text(errors="replace")[-500:]
        self._process.end()
        return False

    def _serves(self) -> bool:
        """Whether the server takes sessions: one that is begun while it starts up can get stuck."""
        try:
            with socket.create_connection((self.host, self._port), timeout=1.0) as connection:
                connection.sendall(b"srvr")
                return b"Mode:" in connection.recv(4096)
        except OSError:
            return False

    def stop(self) -> None:
        self._process.end()
