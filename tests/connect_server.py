"""A server of Spark Connect, as an administrator starts one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from conftest import free_port, poll

from tfos.runtime.java import spark_home
from tfos.runtime.process import ChildProcess

_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"


class ConnectServer:
    """On a master of Spark's. url: sc://host:port."""

    def __init__(self, master: str, folder: Path, **conf: object) -> None:
        port = free_port()
        self.url = f"sc://127.0.0.1:{port}"
        self._log = folder / "connect.log"
        settings = {
            "spark.connect.grpc.binding.port": port,
            "spark.ui.enabled": "false",
            **{name.replace("__", "."): value for name, value in conf.items()},
        }
        command = [str(spark_home() / "bin" / "spark-submit"), "--class", _CLASS]
        command += ["--master", master, "--name", "connect"]
        for name, value in settings.items():
            command += ["--conf", f"{name}={value}"]
        env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
        with open(self._log, "ab") as sink:
            # spark-submit has a JVM say its command, and becomes it
            self._process = ChildProcess([*command, "spark-internal"], env=env, log=sink.fileno())

        def serves() -> bool:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        poll(serves, 120, "the Connect server is up")

    def close(self) -> None:
        self._process.end()
