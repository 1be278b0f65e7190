"""A Hadoop cluster of two nodes on this machine: real daemons, each a JVM of its own.

One NameNode, one DataNode, one ResourceManager and two NodeManagers, which have addresses of the
loopback network and so are two hosts for YARN and for Spark. The jars come from Maven, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
from conftest import ROOT, free_port, our_processes, poll
from hadoop_conf import PAIR, YARN, HadoopConf
from hadoop_jars import jars
from realm import Realm

from tfos.runtime.java import find_java
from tfos.runtime.process import ChildProcess

_SERVER = "org.apache.hadoop.hdfs.server"


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
    none only root can make the cluster, and `jars` are Spark's there. has_kerberos: whether all
    have to say who they are, to `realm`. is_paired: see HadoopConf.
    """

    def __init__(
        self,
        home: Path,
        has_python: bool = True,
        has_kerberos: bool = False,
        is_paired: bool = False,
    ) -> None:
        self._home = home
        self.nodes = f"{home}/node-"
        self.jars = home / "spark-jars"
        self._hides = [] if has_python else _pythons()
        self._jars = jars()
        self._daemons: dict[str, ChildProcess] = {}
        self._ports: dict[str, int] = {}
        self.realm: Realm | None = None
        try:
            if has_kerberos:
                self.realm = Realm(home / "realm", self._java(home))
            self._hadoop = HadoopConf(home, self._port, self.realm, is_paired)
            self.url = self._hadoop.url
            self._conf = self._hadoop.write()
            self.environment = {
                "HADOOP_CONF_DIR": str(self._conf),
                "SPARK_CONF_DIR": str(self._spark_conf()),
                "SPARK_LOCAL_IP": "127.0.0.1",
            }
            if self.realm is not None:
                options = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} {self.realm.java_options}"
                self.environment.update({**self.realm.environment, "SPARK_SUBMIT_OPTS": options})
            self._start_hdfs()
            self._start("resourcemanager", f"{YARN}.resourcemanager.ResourceManager", self._conf)
            for number in (1, 2):
                self.start_node(number)
            self._await_up()
        except BaseException:
            self.close()
            raise

    def _port(self, name: str) -> int:
        return self._ports.setdefault(name, free_port())

    def _start_hdfs(self) -> None:
        main = f"{_SERVER}.namenode.NameNode"
        if self._hadoop.is_paired:
            for number, name in enumerate(PAIR):
                conf = self._hadoop.write(namenode=name)
                words = ["-bootstrapStandby"] if number else ["-format"]
                self._run_once(main, *words, "-nonInteractive", conf=conf)
                self.start_namenode(name)
                if not number:
                    self.make_active(name)
        else:
            self._run_once(main, "-format", "-nonInteractive")
            self._start("namenode", main, self._conf)
        self._start("datanode", f"{_SERVER}.datanode.DataNode", self._conf)

    def start_namenode(self, name: str) -> None:
        """One of a pair; it stands by."""
        conf = self._home / f"conf-{name}"
        self._start(f"namenode-{name}", f"{_SERVER}.namenode.NameNode", conf)

    def kill_namenode(self, name: str) -> None:
        daemon = self._daemons.pop(f"namenode-{name}")
        daemon.signal(signal.SIGKILL)
        daemon.wait()

    def make_active(self, name: str) -> None:
        """What an administrator does by hand, with the other one down, where no controller does."""
        tool = "org.apache.hadoop.hdfs.tools.DFSHAAdmin"
        command = self._java(self._conf, tool, "-transitionToActive", "--forceactive", name)

        def is_active() -> bool:
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

        poll(is_active, 90, f"NameNode {name} is active")

    def _spark_conf(self) -> Path:
        from tfos.runtime.java import spark_home

        conf = self._home / "spark"
        conf.mkdir()
        # a container has nothing of our environment
        told = {"SPARK_LOCAL_IP": "127.0.0.1"}
        told["TFOS_TESTS"] = os.environ["TFOS_TESTS"]
        places = ("spark.yarn.appMasterEnv", "spark.executorEnv")
        options = self.realm.java_options if self.realm else ""
        jvms = [f"spark.{jvm}.extraJavaOptions" for jvm in ("driver", "yarn.am", "executor")]
        (conf / "spark-defaults.conf").write_text(
            # else each submission takes half a gigabyte of jars to HDFS
            f"spark.yarn.jars local:{self.jars if self._hides else spark_home() / 'jars'}/*\n"
            "spark.driver.memory 512m\nspark.driver.memoryOverhead 1g\n"
            "spark.executor.memory 512m\nspark.executor.memoryOverhead 1400m\n"
            + "".join(
                f"{place}.{name} {value}\n" for place in places for name, value in told.items()
            )
            + "".join(f"{jvm} {options}\n" for jvm in jvms if options)
        )
        return conf

    def _java(self, conf: Path, *argv: str) -> list[str]:
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += [
            "-Djava.net.preferIPv4Stack=true",
            "--add-opens=java.base/java.lang=ALL-UNNAMED",
        ]
        options += [f"-D{name}.log.dir={self._home}/logs" for name in ("hadoop", "yarn")]
        if self.realm is not None:
            options.append(self.realm.java_options)
        return [find_java(), *options, "-cp", f"{conf}:{self._jars}/*", *argv]

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
            self._hadoop.write(number)
        self._start(f"node-{number}", f"{YARN}.nodemanager.NodeManager", conf)

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

    def _run_once(self, *argv: str, conf: Path | None = None) -> str:
        ended = subprocess.run(
            self._java(conf or self._conf, *argv), capture_output=True, text=True, timeout=120,
            env={**os.environ, **self.realm.environment} if self.realm else None,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    def log_in(self) -> None:
        """Gets a ticket for the user, where the environment of a client has one."""
        assert self.realm is not None
        look = "from hdfs_native import Client; Client().get_file_info('/')"
        env = {**os.environ, **self.environment, "KRB5_CLIENT_KTNAME": str(self.realm.keytab)}
        # kinit would have to be installed; the library under it does the same for a keytab
        subprocess.run([sys.executable, "-c", look], env=env, check=True, timeout=60)

    def token(self, file: Path) -> Path:
        """Writes what containers have in place of a ticket, of who is logged in."""
        fetcher = "org.apache.hadoop.hdfs.tools.DelegationTokenFetcher"
        self._run_once(fetcher, "--renewer", "yarn", str(file))
        return file

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
        if self.realm is not None:
            self.realm.close()

    def processes(self, node: int | None = None) -> dict[int, str]:
        """What runs in containers, of one node or of both: pid -> command line."""
        home = self._home / f"node-{node}" if node else self._home
        found = {}
        for pid, line in our_processes().items():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if Path(psutil.Process(pid).cwd()).is_relative_to(home):
                    found[pid] = line
        return found
