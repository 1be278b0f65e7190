"""Shared machinery of the cluster tests: real Spark, real ZooKeeper, and a check for leftovers."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from class_data import java_options

from tfos.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
APPS = Path(__file__).parent / "apps"
DATA = ROOT.parent / "shared" / "data"
# every process that these tests start inherits it, and no other has it
_MARK = ("TFOS_TESTS", f"{os.getpid()}-{time.time()}")
os.environ[_MARK[0]] = _MARK[1]
# what may come back is waited for as long as a busy machine needs, not a cluster
os.environ["TFOS_TIMES"] = json.dumps(
    {"session_secs": 6, "missing_secs": 6, "settled_secs": 10, "driver_grace_secs": 8}
)
# their temporary files have a place of their own, so that what is left there is theirs
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tfos-tests-")
atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
_LEAK_SECS = 15.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tfos")
    group.addoption("--full", action="store_true", help="also the long kill matrices")
    group.addoption("--chaos", action="store_true", help="run the tests marked chaos, no others")
    group.addoption("--chaos-seed", type=int, help="of what is done; default: a new one")
    group.addoption("--chaos-kills", type=int, default=20, help="how many, in the long test")
    group.addoption("--chaos-strategy", default="ps", help="ps or kv, in the long tests")
    group.addoption("--chaos-cuts", type=int, default=3, help="of the network, in the test of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--chaos")
    others = [item for item in items if (item.get_closest_marker("chaos") is not None) != wanted]
    if not config.getoption("--full"):
        others += [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether the long kill matrices are wanted."""
    return bool(pytestconfig.getoption("--full"))


def pytest_collection_finish(session: pytest.Session) -> None:
    jvms = ("cluster", "spark")
    if not session.config.option.collectonly and any(
        item.get_closest_marker(mark) for item in session.items for mark in jvms
    ):
        options = java_options()
        os.environ["SPARK_SUBMIT_OPTS"] = os.environ["SPARK_DAEMON_JAVA_OPTS"] = options


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests have to tell even when they pass: record_property("tell", text).

    And how long the tests of each folder took, of the slow ones those of each file.
    """
    secs: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                file = report.nodeid.partition("::")[0]
                secs["tests/unit" if file.startswith("tests/unit/") else file] += report.duration
            if getattr(report, "when", None) == "call":
                for name, text in report.user_properties:
                    if name == "tell":
                        terminalreporter.write_line(f"{report.nodeid}: {text}")
    for place, took in secs.most_common():
        terminalreporter.write_line(f"{took:8.1f} s  {place}")


# processes and directories of the servers that all tests share
SHARED: set[int | str] = set()


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """What is started in the block is no leak of the test that happens to need it first."""
    before = set(our_processes()) | _scratch()
    yield
    SHARED.update((set(our_processes()) | _scratch()) - before)


def poll(condition: Callable[[], Any], secs: float, what: str) -> Any:
    """The first true value of `condition`; fails the test after `secs` seconds."""
    deadline = time.monotonic() + secs
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {secs:g} s: {what}")


def our_processes() -> dict[int, str]:
    """The running processes that these tests have started, directly or not, by pid."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        if (process.info["environ"] or {}).get(_MARK[0]) == _MARK[1]:
            found[process.info["pid"]] = " ".join(process.info["cmdline"] or [])[:200]
    return found


def role_pids(run_id: str) -> dict[str, int]:
    """The TensorFlow processes of a run on this machine, "worker-0" -> pid."""
    found: dict[str, int] = {}
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "environ"]):
        # one that is forked has written its command over that of the fork server
        line = " ".join(process.info["cmdline"] or []).split()
        is_ours = (process.info["environ"] or {}).get(_MARK[0]) == _MARK[1]
        if is_ours and "tfos.runtime.main" in line and run_id in line:
            found[line[line.index("tfos.runtime.main") + 1]] = process.info["pid"]
    return found


def supervisor_of(pid: int) -> psutil.Process:
    """The Python worker of Spark that supervises a TensorFlow process.

    A forked one is the child of its guardian, which is told whom to watch.
    """
    parent = psutil.Process(pid).parent()
    assert parent is not None
    line = parent.cmdline()
    return psutil.Process(int(line[line.index("-c") + 3])) if "-c" in line else parent


def fork_servers() -> list[psutil.Process]:
    """Of all runs of these tests that are under way."""
    ours = (psutil.Process(pid) for pid in our_processes())
    return [p for p in ours if "tfos.runtime.fork_server" in " ".join(p.cmdline()).split()[:4]]


def _scratch() -> set[int | str]:
    return {str(path) for path in Path(tempfile.gettempdir()).glob("tfos-*")}


def _listening(pids: set[int]) -> list[str]:
    return [
        f"pid {c.pid} port {c.laddr.port}"
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.pid in pids
    ]


@pytest.fixture
def seed(pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> int:
    """Of what is done to a run at random; it is printed at the end."""
    given = pytestconfig.getoption("--chaos-seed")
    seed = random.randrange(10_000) if given is None else int(given)
    record_property("tell", f"--chaos-seed {seed}")
    return seed


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test after which a process, a port or a temporary directory of a run is left."""
    before: set[int | str] = set(our_processes())
    scratch = _scratch()
    yield

    def left() -> list[str]:
        known = before | SHARED
        processes = {p: line for p, line in our_processes().items() if p not in known}
        return [
            *(f"process {pid}: {line}" for pid, line in processes.items()),
            *_listening(set(processes)),
            *sorted(_scratch() - scratch - SHARED),
        ]

    deadline = time.monotonic() + _LEAK_SECS
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    leaks = left()
    assert not leaks, "\n".join(leaks)


@dataclass
class Submitted:
    """How a pl_submit ended. result: the last line of stdout under --json, parsed."""

    status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout.splitlines()[-1]))

    @property
    def last_words(self) -> str:
        """What stderr says after "the run failed", or its last line."""
        _, found, after = self.stderr.rpartition("tfos: the run failed: ")
        return after if found else self.stderr.strip().splitlines()[-1]


def _with_defaults(argv: Sequence[str]) -> list[str]:
    """With as few processes as will do, where the test does not ask for more: what it says wins."""
    if argv and argv[0] in COMMANDS:
        return [*argv]
    if {"--strategy", "--num-ps", "--num-workers"}.isdisjoint(argv):
        return ["--strategy", "single", *argv]
    return [*argv]


def start_submit(
    *argv: object,
    stderr: Any = subprocess.PIPE,
    where: Callable[..., list[str]] = lambda *argv: list(argv),
) -> subprocess.Popen[str]:
    """Starts pl_submit as a user would, in a session of its own. stderr: as Popen has it.

    where: makes a command one that runs on another machine, or with another Python.

    Under --strategy single, unless told otherwise.
    """
    return subprocess.Popen(
        where(str(ROOT / "bin" / "pl_submit"), *_with_defaults([*map(str, argv)])),
        stdout=subprocess.PIPE,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def submit(
    *argv: object,
    timeout_secs: float = 280.0,
    where: Callable[..., list[str]] = lambda *argv: list(argv),
) -> Submitted:
    """Runs pl_submit to its end. where: as start_submit() has it."""
    process = start_submit(*argv, where=where)
    try:
        stdout, stderr = process.communicate(timeout=timeout_secs)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        raise AssertionError(f"pl_submit hung; its stderr:\n{stderr}") from None
    return Submitted(process.returncode, stdout, stderr)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def movielens() -> Path:
    path = DATA / "ml-latest-small"
    if not path.is_dir():
        pytest.skip(f"the MovieLens data is not at {path}")
    return path


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[str]:
    """A ZooKeeper server of its own, as host:port."""
    from tfos.runtime.zookeeper import EmbeddedZooKeeper

    with shared():
        server = EmbeddedZooKeeper("127.0.0.1")
        server.wait()
    yield server.hosts
    server.stop()


class SparkCluster:
    """A standalone Spark cluster: a master, and workers that may come and go.

    url: spark://host:port.
    """

    def __init__(self, home: Path) -> None:
        from tfos.runtime.java import spark_home

        self._home = home
        self._spark_class = str(spark_home() / "bin" / "spark-class")
        self._env = {
            **os.environ,
            "SPARK_HOME": str(spark_home()),
            "SPARK_WORKER_DIR": str(home / "work"),
            "PYSPARK_PYTHON": sys.executable,
        }
        port = free_port()
        self.url = f"spark://{self._address('master')}:{port}"
        self._workers: dict[str, Any] = {}
        self._log = home / "master.log"
        self._master = self._start("master", "master.Master", port)
        poll(lambda: "elected leader" in self._log.read_text(), 60, "the Spark master is up")

    def _start(self, name: str, kind: str, port: int, *argv: str) -> Any:
        from tfos.runtime.process import ChildProcess

        with open(self._home / f"{name}.log", "ab") as sink:
            address = self._address(name)
            command = [self._spark_class, f"org.apache.spark.deploy.{kind}"]
            command += ["--host", address, "--port", str(port), "--webui-port", "0", *argv]
            env = {**self._env, "SPARK_LOCAL_IP": address}
            return ChildProcess(self._command(name, *command), env=env, log=sink.fileno())

    def _address(self, name: str) -> str:
        return "127.0.0.1"

    def _command(self, name: str, *argv: str) -> list[str]:
        """The command that runs `argv` where the master or the worker `name` is to run."""
        return list(argv)

    def add_worker(self, name: str, cores: int) -> None:
        registered = self._log.read_text().count("Registering worker")
        size = ["--cores", str(cores), "--memory", "3g"]
        self._workers[name] = self._start(name, "worker.Worker", 0, *size, self.url)
        poll(
            lambda: self._log.read_text().count("Registering worker") > registered,
            60,
            f"Spark worker {name} is up",
        )

    def worker_of(self, pid: int) -> str:
        """The Spark worker that process `pid` runs under."""
        parents = {process.pid for process in supervisor_of(pid).parents()}
        return next(name for name, worker in self._workers.items() if worker.pid in parents)

    def kill_worker(self, name: str) -> None:
        """SIGKILL to a Spark worker and its executors, as if its machine was gone."""
        worker = self._workers.pop(name)
        for process in psutil.Process(worker.pid).children(recursive=True):
            if process.name() == "java":
                process.kill()
        worker.end(grace_secs=0)

    def close(self) -> None:
        for process in [*self._workers.values(), self._master]:
            process.end()


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone Spark cluster, one master and two workers of four slots, as spark://..."""
    with shared():
        cluster = SparkCluster(tmp_path_factory.mktemp("standalone"))
        for name in ("worker-a", "worker-b"):
            cluster.add_worker(name, 4)
    yield cluster.url
    cluster.close()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, no_leaks: None) -> Iterator[SparkCluster]:
    """A Spark cluster of this test alone: three workers of three slots."""
    cluster = SparkCluster(tmp_path_factory.mktemp("spark"))
    try:
        for name in "abc":
            cluster.add_worker(name, 3)
        yield cluster
    finally:
        cluster.close()
