"""The embedded ZooKeeper: one server process out of the jars that pyspark ships."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from tfos.errors import RegistryError
from tfos.runtime.java import find_java, spark_home
from tfos.runtime.process import ChildProcess

_START_TIMEOUT_SECS = 30.0
_PORT_TRIES = 5
_RESTART_PAUSE_SECS = 0.2
_log = logging.getLogger(__name__)


class EmbeddedZooKeeper:
    """A ZooKeeper server on `host` and a free port, its data in a temporary directory.

    host: the address that it listens on and that other processes reach it by.
    class_path: of a JVM with Spark's jars; where not given, those of the installed pyspark are it.
    The constructor starts it, wait() waits until it serves; from then on it is started again on
    its port, with its data, when it dies. It ends, and its directory goes, by stop() or with the
    process that started it. Raises RegistryError when it does not come up.
    """

    def __init__(self, host: str, class_path: str = "") -> None:
        self.host = host
        self._class_path = class_path or str(spark_home() / "jars" / "*")
        self._java = find_java()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._start()

    def wait(self) -> None:
        """Blocks until the server takes sessions."""
        # ZooKeeper cannot take over a held port: when another process wins it meanwhile, try again
        for _ in range(_PORT_TRIES):
            deadline = time.monotonic() + _START_TIMEOUT_SECS
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._serves():
                    threading.Thread(target=self._keep_up, daemon=True).start()
                    return
                time.sleep(0.05)
            last_words = self._log.read_text(errors="replace")[-500:]
            self._process.end()
            self._start()
        self._process.end()
        raise RegistryError(
            f"the embedded ZooKeeper did not come up on {self.host} in {_PORT_TRIES} tries:"
            f" {last_words}; use a server of your own: --zookeeper HOST:PORT"
        )

    def _keep_up(self) -> None:
        """Starts the server again when it dies; with its data sessions and nodes live on."""
        while True:
            self._process.wait()
            # on its port, which another process may hold by bad luck: then it exits at once
            if self._stopping.wait(_RESTART_PAUSE_SECS):
                return
            _log.warning("the embedded ZooKeeper at %s ended; it is started again", self.hosts)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process.end(keep_scratch=True)
                self._launch()

    @property
    def hosts(self) -> str:
        return f"{self.host}:{self._port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> None:
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
        self._scratch = tempfile.mkdtemp(prefix="tfos-zookeeper-")
        self._config = Path(self._scratch, "zoo.cfg")
        self._config.write_text(
            f"tickTime=500\ndataDir={self._scratch}/data\nclientPort={self._port}\n"
            f"clientPortAddress={self.host}\nadmin.enableServer=false\nmaxClientCnxns=0\n"
            "maxSessionTimeout=60000\n"
        )
        # may be longer than one word of a command line may be
        self._java_arguments = Path(self._scratch, "java-arguments")
        quoted = self._class_path.replace("\\", "\\\\").replace('"', '\\"')
        self._java_arguments.write_text(f'-cp "{quoted}"\n')
        self._log = Path(self._scratch, "log")
        self._launch()

    def _launch(self) -> None:
        with open(self._log, "ab") as sink:
            self._process = ChildProcess(
                [
                    self._java,
                    "-Xmx512m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    # its data need to survive the process, not the machine: a busy disk must not
                    # hold up every session behind an fsync
                    "-Dzookeeper.forceSync=no",
                    f"@{self._java_arguments}",
                    "org.apache.zookeeper.server.ZooKeeperServerMain",
                    str(self._config),
                ],
                env=os.environ,
                log=sink.fileno(),
                scratch=self._scratch,
            )

    def _serves(self) -> bool:
        """Whether the server takes sessions: one that is begun while it starts up can get stuck."""
        try:
            with socket.create_connection((self.host, self._port), timeout=1.0) as connection:
                connection.sendall(b"srvr")
                return b"Mode:" in connection.recv(4096)
        except OSError:
            return False

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            self._process.end()
