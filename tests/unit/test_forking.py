"""A fork server and the processes that it forks, seen from who asks and from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from conftest import poll

from tfos.runtime import forking
from tfos.runtime.child import TFProcess
from tfos.runtime.forking import CannotFork, ForkedProcess, ForkServer
from tfos.runtime.guardian import born
from tfos.spec.roles import RoleJob, Task
from tfos.spec.topology import Topology, find

pytestmark = pytest.mark.serial
DEADLINE_SECS = 30.0
BUSY = "import sys, time; time.sleep(600)"

# preloaded, it puts the code of a test in the place of what a role does
STAND_IN = """
import os, signal, sys, time
import tfos.runtime.main as role
def main():
    exec(sys.argv[1], {"os": os, "sys": sys, "signal": signal, "time": time})
    return 0
role.main = main
"""


@dataclass(frozen=True)
class Bare(Topology):
    """Without a framework to import."""

    name: ClassVar[str] = "bare"

    def jobs(self) -> tuple[RoleJob, ...]:
        return ()

    def environment(self, task: Task, inherited: Mapping[str, str]) -> Mapping[str, str]:
        return {"OF_THE_TOPOLOGY": "yes"}


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """A process that stands for an executor: the fork servers end with it."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY])
    monkeypatch.setattr(os, "getppid", lambda: process.pid)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stand_in.py").write_text(STAND_IN)
    yield process
    process.kill()
    process.wait()
    poll(lambda: not list(tmp_path.glob("tfos-fork-*")), DEADLINE_SECS, "fork servers have ended")


@pytest.fixture
def server(executor):
    return ForkServer(Bare(), ("stand_in",))


@pytest.fixture
def fork(server, tmp_path):
    """Forks processes that run `code`, and ends them at last; their output is in tmp_path/log."""
    processes = []

    def fork(code, *args, server=server, **options):
        options = {"env": os.environ, "scratch": "", **options}
        with open(tmp_path / "log", "ab") as log, open(os.devnull, "wb") as channel:
            process = ForkedProcess(
                server, [textwrap.dedent(code), *map(str, args)],
                log=log.fileno(), channel=channel.fileno(), **options,
            )  # fmt: skip
        processes.append(process)
        return process

    yield fork
    for process in processes:
        process.end(grace_secs=0)


def parent(pid: int) -> psutil.Process:
    found = psutil.Process(pid).parent()
    assert found is not None
    return found


def server_of(process: ForkedProcess) -> psutil.Process:
    return parent(parent(process.pid).pid)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def said(fork: Any, code: str, **options: Any) -> Any:
    """What `code`, which prints JSON, says in a forked process."""
    log = Path(tempfile.gettempdir(), "log")
    before = log.stat().st_size if log.exists() else 0
    assert fork(code, **options).wait(DEADLINE_SECS) == 0, log.read_text()
    return json.loads(log.read_text()[before:].splitlines()[-1])


class TestProcess:
    def test_is_as_if_it_had_been_started(self, fork, tmp_path):
        code = """
            import json, tempfile
            print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), tempfile.gettempdir(),
                              sys.path, os.getpgid(0) == os.getsid(0) == os.getpid(),
                              open("/proc/self/cmdline").read(), os.listdir("/proc/self/fd")]))
        """
        env = {"ONE": "1", "TMPDIR": str(tmp_path)}
        argv, directory, environ, temporary, path, leads, line, fds = said(fork, code, env=env)
        assert argv[0] == "tfos.runtime.main"
        assert directory == os.getcwd()
        assert environ.items() >= env.items()
        assert set(environ) - {"LC_CTYPE"} == {*env, "TFOS_CHANNEL"}
        assert temporary == str(tmp_path)
        assert path == sys.path
        assert leads
        assert line.startswith(f"{sys.executable} -m tfos.runtime.main ")
        # stdin, log twice, channel, and what listdir() has open itself
        assert len(fds) == 5

    def test_status_output_and_errors(self, fork, tmp_path):
        process = fork("print('out'); print('err', file=sys.stderr); sys.exit(7)")
        assert process.wait(DEADLINE_SECS) == 7 == process.poll()
        assert (tmp_path / "log").read_text().split() == ["out", "err"]

    def test_exception_is_told_in_its_log(self, fork, tmp_path):
        assert fork("raise ValueError('no such')").wait(DEADLINE_SECS) == 1
        assert "ValueError: no such" in (tmp_path / "log").read_text()

    def test_reads_what_we_write(self, fork, tmp_path):
        process = fork("print(sys.stdin.readline()[::-1])")
        process.stdin.write(b"order\n")
        process.stdin.flush()
        assert process.wait(DEADLINE_SECS) == 0
        assert (tmp_path / "log").read_text().strip() == "redro"

    def test_channel_ends_with_it(self, server, tmp_path):
        read_end, write_end = os.pipe()
        code = "os.write(int(os.environ['TFOS_CHANNEL']), b'said')"
        with open(tmp_path / "log", "ab") as log:
            process = ForkedProcess(
                server, [code], env=os.environ, log=log.fileno(), channel=write_end, scratch=""
            )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as channel:
            assert channel.read() == b"said"
        process.end()

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
    def test_death_by_a_signal(self, fork, signum):
        process = fork("time.sleep(600)")
        process.signal(signum)
        assert process.wait(DEADLINE_SECS) == -signum
        process.signal(signum)  # is no error

    def test_wait_gives_up_in_time(self, fork):
        process = fork("time.sleep(600)")
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)

    def test_end_takes_what_it_started_and_its_scratch(self, fork, tmp_path):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        started = tmp_path / "started"
        code = f"""
            import subprocess
            child = subprocess.Popen(["sleep", "600"])
            open({str(started)!r}, "w").write(str(child.pid))
            time.sleep(600)
        """
        process = fork(code, scratch=str(scratch))
        poll(lambda: started.exists() and started.read_text(), DEADLINE_SECS, "it has a child")
        guardian = parent(process.pid).pid
        assert process.end(grace_secs=0) == -signal.SIGKILL
        poll(lambda: is_gone(int(started.read_text())), DEADLINE_SECS, "its child is gone")
        poll(lambda: is_gone(guardian), DEADLINE_SECS, "its guardian is gone")
        assert not scratch.exists()
        assert process.end() == -signal.SIGKILL

    def test_crash_in_c_leaves_the_python_stack(self, fork, tmp_path):
        process = fork("import faulthandler; faulthandler._sigsegv()")
        assert process.wait(DEADLINE_SECS) == -signal.SIGSEGV
        assert "Fatal Python error: Segmentation fault" in (tmp_path / "log").read_text()


class TestServer:
    def test_is_one_for_all_who_ask(self, fork):
        one, two = fork("time.sleep(600)"), fork("time.sleep(600)")
        assert server_of(one) == server_of(two)

    def test_has_what_it_loaded(self, fork):
        assert said(fork, "print(int('stand_in' in sys.modules))") == 1

    def test_killed_it_is_started_again_and_its_processes_live_on(self, fork):
        process = fork("sys.exit(len(sys.stdin.readline()))")
        before = server_of(process)
        before.kill()
        poll(lambda: is_gone(before.pid), DEADLINE_SECS, "it is gone")
        after = server_of(fork("time.sleep(600)"))
        assert after.pid != before.pid
        process.stdin.write(b"12345\n")
        process.stdin.flush()
        assert process.wait(DEADLINE_SECS) == 6

    def test_once_it_has_given_a_process_it_is_not_waited_for_as_long(self, fork, monkeypatch):
        stuck = server_of(fork("time.sleep(600)"))
        monkeypatch.setattr(forking, "_AGAIN_SECS", 0.2)
        stuck.suspend()
        try:
            with pytest.raises(CannotFork, match="gave no process: timed out"):
                fork("time.sleep(600)")
        finally:
            stuck.resume()

    def test_keeper_killed_takes_it_along_and_another_comes(self, fork):
        process = fork("time.sleep(600)")
        before = server_of(process)
        parent(before.pid).kill()
        poll(lambda: is_gone(before.pid), DEADLINE_SECS, "the server is gone")
        assert process.poll() is None
        assert server_of(fork("time.sleep(600)")).pid != before.pid

    def test_ends_with_the_executor(self, fork, executor, tmp_path):
        server = server_of(fork("time.sleep(600)"))
        keeper = parent(server.pid)
        executor.kill()
        executor.wait()
        poll(lambda: is_gone(server.pid) and is_gone(keeper.pid), DEADLINE_SECS, "both are gone")
        assert not list(tmp_path.glob("tfos-fork-*"))

    def test_ends_after_an_idle_while(self, executor, tmp_path):
        hurry = tmp_path / "modules" / "hurry.py"
        hurry.write_text("import __main__ as main\nmain._IDLE_SECS = main._TICK_SECS = 0.1")
        ForkServer(Bare(), ("hurry",)).start()
        poll(lambda: not list(tmp_path.glob("tfos-fork-*")), DEADLINE_SECS, "it has ended")

    def test_start_does_not_wait_for_what_it_loads(self, executor, tmp_path):
        (tmp_path / "modules" / "slow.py").write_text(BUSY)
        ForkServer(Bare(), ("slow",)).start()

    def test_needs_a_directory_of_our_own(self, server, executor, tmp_path):
        directory = server._directory(executor.pid, born(executor.pid))
        directory.chmod(0o755)
        with pytest.raises(CannotFork, match="is not ours alone"):
            server.start()
        directory.rmdir()

    def test_temporary_directory_with_a_group_of_its_own(self, fork, tmp_path):
        """As Kubernetes mounts an emptyDir with an fsGroup: directories in it inherit the bit."""
        tmp_path.chmod(0o2777)
        assert fork("pass").wait(DEADLINE_SECS) == 0

    def test_that_cannot_begin_says_why(self, server, tmp_path):
        (tmp_path / "modules" / "setproctitle.py").write_text("raise ImportError('no title')")
        with pytest.raises(CannotFork, match=r"(?s)ends as it begins: .*ImportError: no title"):
            server.start()

    def test_deep_temporary_directory(self, fork, tmp_path, monkeypatch):
        deep = tmp_path / ("x" * 120)
        deep.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
        assert fork("pass").wait(DEADLINE_SECS) == 0


class TestRefused:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (
                "import threading\nthreading.Thread(target=threading.Event().wait).start()",
                "importing 'heavy', which the app preloads, starts 1 threads",
            ),
            ("import no_such_module", "No module named 'no_such_module'"),
            ("raise SystemExit(3)", "SystemExit: 3"),
        ],
        ids=["starts threads", "imports what is not there", "exits"],
    )
    def test_preload(self, executor, fork, tmp_path, source, words):
        (tmp_path / "modules" / "heavy.py").write_text(source)
        with pytest.raises(CannotFork, match=words):
            fork("pass", server=ForkServer(Bare(), ("heavy",)))

    def test_server_that_dies_as_it_loads(self, executor, fork, tmp_path):
        (tmp_path / "modules" / "deadly.py").write_text("import os; os.abort()")
        with pytest.raises(CannotFork, match="the fork server"):
            fork("pass", server=ForkServer(Bare(), ("deadly",)))

    def test_the_process_is_started_then_and_its_log_says_why(self, executor, tmp_path):
        (tmp_path / "modules" / "threads.py").write_text(
            "import threading\nthreading.Thread(target=threading.Event().wait).start()"
        )
        log = tmp_path / "log"
        server = ForkServer(Bare(), ("threads",))
        process = TFProcess(
            Task("worker", 1), "run-7", find("ps").of({}), str(tmp_path), log,
            lambda *_: None, lambda *_: None, server,
        )  # fmt: skip
        try:
            assert "tfos: this process is started, not forked: importing 'threads'" in (
                log.read_text()
            )
            assert psutil.Process(process.pid).ppid() == psutil.Process().pid
        finally:
            process.end()


# what asks for a process, says its pid, and stays
OWNER = """
import os, sys, time
sys.path[:0] = [sys.argv[2]]
sys.path[:0] = [sys.argv[3]]
executor = int(sys.argv[1])
os.getppid = lambda: executor
from test_forking import Bare, ForkedProcess, ForkServer
log = os.open(os.devnull, os.O_WRONLY)
process = ForkedProcess(
    ForkServer(Bare(), ("stand_in",)), ["time.sleep(600)"],
    env=os.environ, log=log, channel=log, scratch=sys.argv[4],
)
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_owner_dies_and_with_it_process_and_scratch(executor, tmp_path, stopped):
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    places = [tmp_path / "modules", Path(__file__).parent, scratch]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(executor.pid), *map(str, places)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    try:
        pid = int(owner.stdout.readline())
        guardian = parent(pid).pid
        if stopped:
            os.kill(pid, signal.SIGSTOP)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    poll(lambda: is_gone(pid) and is_gone(guardian), DEADLINE_SECS, "both are gone")
    assert not scratch.exists()


def test_guardian_dies_and_with_it_the_process(fork):
    process = fork("time.sleep(600)")
    parent(process.pid).kill()
    assert process.wait(DEADLINE_SECS) == -signal.SIGKILL
    poll(lambda: is_gone(process.pid), DEADLINE_SECS, "it is gone")


class TestWithTensorFlow:
    """What the fork server of every strategy on TensorFlow loads."""

    @pytest.fixture(scope="class")
    def executor(self, tmp_path_factory):
        """One server for these tests: it takes seconds to load."""
        home = tmp_path_factory.mktemp("executor")
        (home / "stand_in.py").write_text(STAND_IN)
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getppid", lambda: process.pid)
            patch.setattr(tempfile, "tempdir", str(home))
            patch.syspath_prepend(str(home))
            yield process
            process.kill()
            process.wait()
            poll(lambda: not list(home.glob("tfos-fork-*")), DEADLINE_SECS, "it has ended")

    @pytest.fixture
    def server(self, executor):
        return ForkServer(find("ps").of({}), ("stand_in", "s3fs", "pyarrow.dataset", "grpc"))

    @pytest.fixture
    def tmp_path(self, executor):
        return Path(tempfile.gettempdir())

    def test_nothing_is_initialized(self, fork):
        code = """
            import json
            from tensorflow.python.eager import context
            before = context._context is None or not context._context._initialized
            import keras, tensorflow as tf, fsspec.asyn
            from keras.src.backend.common import global_state
            seeds = global_state.get_global_attribute("global_seed_generator")
            print(json.dumps([before, seeds is None, fsspec.asyn.loop[0] is None]))
        """
        assert said(fork, code) == [True, True, True]

    def test_server_has_given_back_what_its_import_touched_of_libraries(self, fork):
        maps = server_of(fork("time.sleep(600)")).memory_maps(grouped=True)
        (library,) = [each for each in maps if "libtensorflow_cc.so" in each.path]
        assert library.rss < library.size / 8

    def test_each_has_random_numbers_of_its_own(self, fork):
        code = """
            import json, random, tempfile, uuid
            import keras, numpy, tensorflow as tf
            draws = [random.random(), float(numpy.random.rand()), float(tf.random.uniform([])),
                     float(keras.random.uniform([])), keras.layers.Dropout(0.5).seed_generator,
                     tempfile.mktemp(), str(uuid.uuid4()), str(uuid.uuid1())]
            draws[4] = float(draws[4].state[0])
            print(json.dumps(draws))
        """
        one, two = said(fork, code), said(fork, code)
        assert all(a != b for a, b in zip(one, two, strict=True)), (one, two)

    def test_trains(self, fork):
        code = """
            import keras, numpy
            model = keras.Sequential([keras.layers.Dense(1)])
            model.compile("sgd", "mse")
            model.fit(numpy.ones([64, 3]), numpy.ones([64]), verbose=0)
            print(int(model.optimizer.iterations))
        """
        assert said(fork, code) == 2

    def test_clients_that_are_used_in_the_children(self, fork, s3_server, zookeeper, tmp_path):
        code = f"""
            import pyarrow as pa, pyarrow.dataset as ds, pyarrow.fs
            import s3fs, grpc, fsspec
            from kazoo.client import KazooClient
            pa.dataset = ds
            table = pa.table({{"x": list(range(100_000))}})
            home = os.path.join({str(tmp_path)!r}, str(os.getpid()))
            ds.write_dataset(table, home, format="parquet")
            assert ds.dataset(home).to_table(use_threads=True).num_rows == 100_000
            bucket = fsspec.filesystem("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
            bucket.mkdir(f"lake-{{os.getpid()}}")
            path = f"lake-{{os.getpid()}}/file"
            bucket.pipe_file(path, b"text")
            assert bucket.cat_file(path) == b"text"
            client = KazooClient({zookeeper!r})
            client.start(timeout=20)
            client.create(f"/forked-{{os.getpid()}}", ephemeral=True)
            client.stop()
            import tensorflow as tf
            server = tf.distribute.Server.create_local_server()
            with tf.compat.v1.Session(server.target) as session:
                pass
            channel = grpc.insecure_channel(server.target.removeprefix("grpc://"))
            grpc.channel_ready_future(channel).result(20)
            print(1)
        """
        env = {**os.environ, **s3_server.environment}
        assert [said(fork, code, env=env) for _ in range(2)] == [1, 1]


@pytest.fixture
def s3_server():
    from s3 import S3Server

    server = S3Server()
    yield server
    server.end()


def test_born_tells_a_process_from_another_of_its_number():
    one = subprocess.Popen(["sleep", "600"])
    try:
        assert born(one.pid) == born(one.pid) != born(1)
    finally:
        one.kill()
        one.wait()


def test_other_systems(server, monkeypatch):
    monkeypatch.setattr(forking.sys, "platform", "darwin")
    with pytest.raises(CannotFork, match="not forked on darwin"):
        server.start()


def test_without_proc(server, monkeypatch):
    def no_proc(pid):
        raise FileNotFoundError(f"/proc/{pid}/stat")

    monkeypatch.setattr(forking, "born", no_proc)
    with pytest.raises(CannotFork, match="/proc does not tell"):
        server.start()
