"""A Hadoop cluster of two nodes on this machine: real daemons, each a JVM of its own.

One NameNode, one DataNode, one ResourceManager and two NodeManagers, which have addresses of the
loopback network and so are two hosts for YARN and for Spark. The jars come from Maven, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import psutil
import pytest
from conftest import ROOT, free_port, our_processes, poll

from tfos.runtime.java import find_java
from tfos.runtime.process import ChildProcess

_POM = Path(__file__).with_name("pom.xml")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfos-tests", "hadoop")
_SERVER = "org.apache.hadoop.hdfs.server"
_YARN = "org.apache.hadoop.yarn.server"
_NODE_MB, _NODE_CORES = 10_240, 8
# of the NodeManager that says nothing; its containers go on until then
_EXPIRY_MS = 20_000
_FETCH_SECS = 300


def jars() -> Path:
    """The folder of Hadoop's jars; fetched on first use. Skips the test where Maven is missing."""
    folder = _CACHE / "jars"
    done = _CACHE / _POM.read_text().partition("<hadoop>")[2].partition("<")[0]
    if done.exists():
        return folder
    if shutil.which("mvn") is None:
        pytest.skip("Hadoop's jars are not here, and without Maven (mvn) cannot be fetched")
    _CACHE.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECS)
    except subprocess.TimeoutExpired:
        pytest.skip(
            f"Maven has not fetched Hadoop's jars within {_FETCH_SECS} s; it goes on next time"
        )
    if fetched.returncode != 0:
        pytest.skip(f"Maven cannot fetch Hadoop's jars: {fetched.stdout[-500:]}")
    done.touch()
    return folder


def _site(path: Path, values: Mapping[str, object]) -> None:
    rows = (
        f"<property><name>{name}</name><value>{escape(str(value))}</value></property>\n"
        for name, value in values.items()
    )
    path.write_text(f"<configuration>\n{''.join(rows)}</configuration>\n")


# a mount namespace of its own: there are jars at $1, and nothing in the folders and files after it
_HIDE = """
cd / && jars=$1 && to=$2 && shift 2 && mkdir -p "$to" && mount --bind "$jars" "$to" || exit 1
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mount -t tmpfs none "$1"; else mount --bind /dev/null "$1"; fi || exit 1
  shift
done
shift && exec "$@"
"""


def _pythons() -> list[Path]:
    """Where this machine has Python, and this checkout."""
    folders = [*os.get_exec_path(), "/bin", "/usr/bin", "/usr/local/bin"]
    programs = {each for folder in folders for each in Path(folder).glob("python*")}
    libraries = [*Path("/usr/lib").glob("python3*"), Path(sys.base_prefix), Path(sys.prefix)]
    return [*(each for each in programs if not each.is_symlink()), *libraries, ROOT]


class HadoopCluster:
    """url: of HDFS. environment: what a client on an edge node has in its environment.

    nodes: how the paths of what nodes have unpacked begin.

    has_python: whether the nodes have this machine's Python and this checkout. Where they have
    none only root can make the cluster, and `jars` are Spark's there.
    """

    def __init__(self, home: Path, has_python: bool = True) -> None:
        self._home = home
        self.nodes = f"{home}/node-"
        self.jars = home / "spark-jars"
        self._hides = [] if has_python else _pythons()
        self._jars = jars()
        self._daemons: dict[str, ChildProcess] = {}
        self._ports: dict[str, int] = {}
        self.url = f"hdfs://127.0.0.1:{self._port('namenode')}"
        self._conf = self._write_conf(None)
        self.environment = {
            "HADOOP_CONF_DIR": str(self._conf),
            "SPARK_CONF_DIR": str(self._spark_conf()),
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        self._run_once(f"{_SERVER}.namenode.NameNode", "-format", "-nonInteractive")
        try:
            self._start("namenode", f"{_SERVER}.namenode.NameNode", self._conf)
            self._start("datanode", f"{_SERVER}.datanode.DataNode", self._conf)
            self._start("resourcemanager", f"{_YARN}.resourcemanager.ResourceManager", self._conf)
            for number in (1, 2):
                self.start_node(number)
            self._await_up()
        except BaseException:
            self.close()
            raise

    def _port(self, name: str) -> int:
        return self._ports.setdefault(name, free_port())

    def _write_conf(self, node: int | None) -> Path:
        conf = self._home / (f"conf-{node}" if node else "conf")
        # the web pages that the jars of HDFS lack, and its daemons look for
        for page in ("hdfs", "datanode"):
            (conf / "webapps" / page).mkdir(parents=True)
        at = "127.0.0.1"
        _site(
            conf / "core-site.xml",
            {
                "fs.defaultFS": self.url,
                "hadoop.tmp.dir": self._home / f"tmp-{node or 0}",
                "hadoop.http.staticuser.user": "root",
            },
        )
        _site(
            conf / "hdfs-site.xml",
            {
                "dfs.replication": 1,
                "dfs.namenode.name.dir": f"file://{self._home}/namenode",
                "dfs.datanode.data.dir": f"file://{self._home}/datanode",
                "dfs.namenode.http-address": f"{at}:{self._port('namenode-http')}",
                "dfs.datanode.address": f"{at}:{self._port('datanode')}",
                "dfs.datanode.ipc.address": f"{at}:{self._port('datanode-ipc')}",
                "dfs.datanode.http.address": f"{at}:{self._port('datanode-http')}",
                "dfs.datanode.http.internal-proxy.port": self._port("datanode-proxy"),
                "dfs.datanode.hostname": at,
                "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            },
        )
        manager = {
            f"yarn.resourcemanager.{part}address": f"{at}:{self._port('rm-' + part)}"
            for part in ("", "scheduler.", "resource-tracker.", "admin.", "webapp.")
        }
        host = f"127.0.0.{1 + (node or 0)}"
        nodes = {
            "yarn.nodemanager.hostname": host,
            "yarn.nodemanager.bind-host": host,
            **{
                f"yarn.nodemanager.{part}address": f"{host}:{self._port(f'nm{node}-{part}')}"
                for part in ("", "localizer.", "webapp.", "collector-service.")
            },
            "yarn.nodemanager.local-dirs": self._home / f"node-{node}" / "local",
            "yarn.nodemanager.log-dirs": self._home / f"node-{node}" / "logs",
        }
        _site(
            conf / "yarn-site.xml",
            {
                **manager,
                "yarn.resourcemanager.hostname": at,
                "yarn.resourcemanager.am.max-attempts": 4,
                "yarn.resourcemanager.scheduler.class": f"{_YARN}.resourcemanager.scheduler"
                ".capacity.CapacityScheduler",
                "yarn.scheduler.minimum-allocation-mb": 128,
                "yarn.scheduler.maximum-allocation-mb": _NODE_MB,
                "yarn.nm.liveness-monitor.expiry-interval-ms": _EXPIRY_MS,
                "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": 500,
                "yarn.application.classpath": "$PWD",
                "yarn.nodemanager.delete.debug-delay-sec": 0,
                # 2.1 times a container's size: a JVM and TensorFlow map far more
                "yarn.nodemanager.vmem-check-enabled": "false",
                "yarn.nodemanager.pmem-check-enabled": "true",
                # that is left to cgroups by default, whether there are any or not
                "yarn.nodemanager.resource.memory.enforced": "false",
                "yarn.nodemanager.resource.memory-mb": _NODE_MB,
                "yarn.nodemanager.resource.cpu-vcores": _NODE_CORES,
                "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 99,
                **(nodes if node else {}),
            },
        )
        queue = "yarn.scheduler.capacity"
        _site(
            conf / "capacity-scheduler.xml",
            {
                f"{queue}.root.queues": "default",
                f"{queue}.root.default.capacity": 100,
                f"{queue}.maximum-am-resource-percent": 0.8,
                f"{queue}.resource-calculator": "org.apache.hadoop.yarn.util.resource"
                ".DominantResourceCalculator",
            },
        )
        (conf / "log4j.properties").write_text(
            "log4j.rootLogger=INFO,c\n"
            "log4j.appender.c=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.c.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.c.layout.ConversionPattern=%d %p %c{1}: %m%n\n"
        )
        return conf

    def _spark_conf(self) -> Path:
        from tfos.runtime.java import spark_home

        conf = self._home / "spark"
        conf.mkdir()
        # a container has nothing of our environment
        told = {"SPARK_LOCAL_IP": "127.0.0.1"}
        told["TFOS_TESTS"] = os.environ["TFOS_TESTS"]
        places = ("spark.yarn.appMasterEnv", "spark.executorEnv")
        (conf / "spark-defaults.conf").write_text(
            # else each submission takes half a gigabyte of jars to HDFS
            f"spark.yarn.jars local:{spark_home()}/jars/*\n"
            "spark.driver.memory 512m\nspark.driver.memoryOverhead 1g\n"
            "spark.executor.memory 512m\nspark.executor.memoryOverhead 1400m\n"
            + "".join(
                f"{place}.{name} {value}\n" for place in places for name, value in told.items()
            )
        )
        return conf

    def _java(self, conf: Path, *argv: str) -> list[str]:
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += [
            "-Djava.net.preferIPv4Stack=true",
            "--add-opens=java.base/java.lang=ALL-UNNAMED",
        ]
        logs = [f"-D{name}.log.dir={self._home}/logs" for name in ("hadoop", "yarn")]
        return [find_java(), *options, *logs, "-cp", f"{conf}:{self._jars}/*", *argv]

    def _start(self, name: str, main: str, conf: Path) -> None:
        env = {**os.environ, "JAVA_HOME": str(Path(find_java()).resolve().parents[1])}
        env.pop("TMPDIR", None)  # containers have places of their own
        with open(self._home / f"{name}.log", "ab") as sink:
            command = self._java(conf, main)
            if name.startswith("node-"):
                command = self.on_a_node(*command)
            self._daemons[name] = ChildProcess(command, env=env, log=sink.fileno())

    def on_a_node(self, *command: str) -> list[str]:
        """The command as one that sees what the nodes see."""
        from tfos.runtime.java import spark_home

        if not self._hides:
            return [*command]
        hides = [str(spark_home() / "jars"), str(self.jars), *map(str, self._hides), "--"]
        return ["unshare", "--mount", "bash", "-c", _HIDE, "bash", *hides, *command]

    def start_node(self, number: int) -> None:
        conf = self._home / f"conf-{number}"
        if not conf.exists():
            self._write_conf(number)
        self._start(f"node-{number}", f"{_YARN}.nodemanager.NodeManager", conf)

    def kill_node(self, number: int, is_whole: bool) -> None:
        """SIGKILL to a NodeManager; is_whole: to all that runs in its containers, too."""
        self._killed_at = len(self._manager_log())
        daemon = self._daemons.pop(f"node-{number}")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        if is_whole:
            for pid in self.processes(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def node_is_lost(self, number: int) -> bool:
        """Whether the ResourceManager has given up a node that was killed."""
        said = self._manager_log()[self._killed_at :]
        lost = [line for line in said.splitlines() if "from RUNNING to LOST" in line]
        return any(f"127.0.0.{1 + number}:" in line for line in lost)

    def _manager_log(self) -> str:
        return (self._home / "resourcemanager.log").read_text()

    def node_of(self, pid: int) -> int:
        """The number of the node in whose container a process runs."""
        return next(number for number in (1, 2) if pid in self.processes(number))

    def _run_once(self, *argv: str) -> str:
        ended = subprocess.run(
            self._java(self._conf, *argv), capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    def yarn(self, *argv: str) -> str:
        """What `yarn application ...` or `yarn node ...` prints."""
        client = {"application": "ApplicationCLI", "node": "NodeCLI"}[argv[0]]
        words = argv if argv[0] == "application" else argv[1:]
        return self._run_once(f"org.apache.hadoop.yarn.client.cli.{client}", *words)

    def applications(self) -> list[str]:
        """The applications that have not ended."""
        lines = self.yarn("application", "-list").splitlines()
        return [line.split()[0] for line in lines if line.startswith("application_")]

    def containers(self, application: str) -> dict[str, tuple[int, int]]:
        """MiB and cores of the containers of an application, as the ResourceManager has them."""
        attempts = self._ask(f"apps/{application}/appattempts")["appAttempts"]["appAttempt"]
        found = {}
        for attempt in attempts:
            path = f"apps/{application}/appattempts/{attempt['appAttemptId']}/containers"
            for one in self._ask(path).get("container", []):
                found[one["containerId"]] = int(one["allocatedMB"]), int(one["allocatedVCores"])
        return found

    def _ask(self, path: str) -> dict:
        url = f"http://127.0.0.1:{self._port('rm-webapp.')}/ws/v1/cluster/{path}"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _await_up(self) -> None:
        def running() -> bool:
            for name, daemon in self._daemons.items():
                assert daemon.poll() is None, (self._home / f"{name}.log").read_text()[-3000:]
            return self._manager_log().count("Node Transitioned from NEW to RUNNING") == 2

        poll(running, 90, "both nodes are up")

    def close(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.end()

    def processes(self, node: int | None = None) -> dict[int, str]:
        """What runs in containers, of one node or of both: pid -> command line."""
        home = self._home / f"node-{node}" if node else self._home
        found = {}
        for pid, line in our_processes().items():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if Path(psutil.Process(pid).cwd()).is_relative_to(home):
                    found[pid] = line
        return found
