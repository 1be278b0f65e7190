"""What a supervisor does beside its lifecycle: its port, its driver, its log, its reports."""

from __future__ import annotations

import contextlib
import queue
import resource
import signal
import socket
import threading
from types import SimpleNamespace

import pyspark
import pytest
from conftest import poll
from helpers import Nodes

from tfos.lake.run_directory import RunDirectory
from tfos.runtime import keys, logfile
from tfos.runtime import task as spark_task
from tfos.runtime.background import Newest
from tfos.runtime.lifecycle import Ended
from tfos.runtime.logfile import LogFile
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.ports import hold_port, local_address
from tfos.runtime.registry import RegistryAddress
from tfos.runtime.supervisor import Supervisor
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task
from tfos.spec.times import TIMES

DEADLINE_SECS = 10
DRIVER = {"host": "d", "pid": 7, "since": 1.0}


class TestPort:
    def test_is_held_for_a_server_that_shares_it_and_no_other(self):
        with hold_port("127.0.0.1") as held:
            address = held.getsockname()
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                server.bind(address)
                server.listen()
                socket.create_connection(address, timeout=5).close()
            with socket.socket() as stranger, pytest.raises(OSError):
                stranger.bind(address)

    def test_address_on_the_way_to_the_registry(self):
        assert local_address(("127.0.0.1", 2181)) == "127.0.0.1"


class TestDriver:
    @pytest.fixture
    def supervisor(self, tmp_path):
        address = RegistryAddress("h:1", "r", "secret")
        plan = AttemptPlan(
            JobSpec.of(), "r", 1, RunDirectory(str(tmp_path), "r"), address, "m", DRIVER
        )
        supervisor = Supervisor(plan, Task("worker", 0))
        supervisor._registry = SimpleNamespace(is_settled=True, lost_secs=lambda: 0.0)
        return supervisor

    def ended(self, supervisor):
        event = supervisor._events.get_nowait()
        assert isinstance(event, Ended)
        return event.why

    def test_comes_and_goes_and_comes(self, supervisor):
        for value, is_here in ((DRIVER, True), (None, False), (dict(DRIVER), True)):
            supervisor._driver_changed(value)
            assert supervisor._driver_here.is_set() is is_here
        supervisor._look_around()
        assert supervisor._events.empty()

    @pytest.mark.parametrize("change", [{"host": "e"}, {"pid": 8}, {"since": 2.0}])
    def test_another_one_ends_it_though_the_node_was_never_seen_gone(self, supervisor, change):
        supervisor._driver_changed(DRIVER)
        supervisor._driver_changed({**DRIVER, **change})
        assert "another driver" in self.ended(supervisor)

    def test_without_zookeeper_for_too_long_it_ends(self, supervisor):
        supervisor._driver_changed(DRIVER)
        supervisor._registry.lost_secs = lambda: TIMES.outage_secs - 1
        supervisor._look_around()
        assert supervisor._events.empty()
        supervisor._registry.lost_secs = lambda: TIMES.outage_secs + 1
        supervisor._look_around()
        assert "ZooKeeper" in self.ended(supervisor)


class TestSecondCopy:
    """Of a task that Spark has begun once already: it lost it, or thinks it slow."""

    @pytest.fixture
    def nodes(self):
        return Nodes()

    @pytest.fixture
    def serve(self, nodes, tmp_path, monkeypatch):
        """Runs it; its answer comes in the queue that is returned."""
        monkeypatch.setattr(spark_task, "Registry", lambda _: contextlib.nullcontext(nodes))
        monkeypatch.setattr(spark_task, "_STAND_BY_SECS", 0.01)
        copy = SimpleNamespace(partitionId=lambda: 1, attemptNumber=lambda: 1)
        monkeypatch.setattr(pyspark.TaskContext, "get", lambda: copy)
        address = RegistryAddress("h:1", "r", "secret")
        lake = RunDirectory(str(tmp_path), "r")
        plan = AttemptPlan(JobSpec.of(), "r", 1, lake, address, "m", DRIVER)
        tasks = (Task("worker", 0), Task("worker", 1))
        nodes.put(keys.driver("r"), DRIVER)
        ended = queue.Queue()
        serve = threading.Thread(
            target=lambda: ended.put(spark_task.supervise(plan, tasks)), daemon=True
        )
        serve.start()
        return ended

    def test_never_serves_and_ends_after_the_first_one(self, nodes, serve):
        first = f"{keys.members('r', 1)}/worker-1"
        nodes.put(first, {"host": "h"})
        with pytest.raises(queue.Empty):
            serve.get(timeout=0.1)
        nodes.put(keys.stop("r", 1), True)
        with pytest.raises(queue.Empty):
            serve.get(timeout=0.1)
        assert nodes.children(keys.members("r", 1)) == ["worker-1"]
        nodes.remove(first)
        assert serve.get(timeout=DEADLINE_SECS) == [("worker-1", "Spark began it twice")]

    def test_ends_when_another_driver_has_come(self, nodes, serve):
        nodes.put(keys.driver("r"), {**DRIVER, "pid": 8})
        assert serve.get(timeout=DEADLINE_SECS)

    def test_outlives_a_driver_that_is_gone_for_a_moment(self, nodes, serve):
        """As long as the first one is there, whose own clock says how long that may be."""
        first = f"{keys.members('r', 1)}/worker-1"
        nodes.put(first, {"host": "h"})
        nodes.remove(keys.driver("r"))
        with pytest.raises(queue.Empty):
            serve.get(timeout=0.1)
        nodes.remove(first)
        assert serve.get(timeout=DEADLINE_SECS)


class TestFailure:
    def failure(self, tmp_path, name, attempt, status, spec=None):
        address = RegistryAddress("h:1", "r", "secret")
        lake = RunDirectory(str(tmp_path), "r")
        plan = AttemptPlan(spec or JobSpec.of(), "r", attempt, lake, address, "m", DRIVER)
        supervisor = Supervisor(plan, Task.parse(name))
        supervisor._log = LogFile(lake, f"logs/{attempt}/{name}.log", str(tmp_path))
        supervisor._log.local.write_text(f"last words of {name}\n")
        return supervisor._failure(1, None, status)

    def test_an_exit_that_says_that_another_process_has_gone(self, tmp_path):
        for mpi, kind in ((True, "peer"), (False, "exit")):
            spec = JobSpec.of("gang", mpi=mpi)
            assert self.failure(tmp_path, "worker-0", 1, 195, spec).kind == kind

    @pytest.mark.parametrize(("status", "kind"), [(-signal.SIGABRT, "crash"), (7, "exit")])
    def test_same_end_has_the_same_words_in_every_task_and_attempt(self, tmp_path, status, kind):
        one = self.failure(tmp_path, "worker-0", 1, status)
        other = self.failure(tmp_path, "worker-1", 2, status)
        assert one.kind == kind
        assert one.message == other.message
        assert one.traceback.splitlines()[0].startswith(f"{tmp_path}/r/logs/1/worker-0.log ends")
        assert one.traceback.splitlines()[-1] == "last words of worker-0"

    def test_crash_names_the_signal_and_what_may_be_done(self, tmp_path, monkeypatch):
        limits = (1 << 31, 1 << 31)
        monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
        message = self.failure(tmp_path, "chief-0", 1, -signal.SIGABRT).message
        for word in ("killed by SIGABRT", "2.00 GiB", "spark.executor.pyspark.memory"):
            assert word in message


class TestNewest:
    def test_does_not_hold_up_who_gives_and_skips_what_is_old(self):
        gate, begun, done = threading.Event(), threading.Event(), queue.Queue()

        def act(value):
            begun.set()
            assert gate.wait(DEADLINE_SECS)
            done.put(value)

        newest = Newest("test", act)
        newest.give(0)
        assert begun.wait(DEADLINE_SECS)
        for value in (1, 2, 3):
            newest.give(value)
        gate.set()
        assert [done.get(timeout=DEADLINE_SECS) for _ in range(2)] == [0, 3]
        newest.give(None)  # is a value as any other
        assert done.get(timeout=DEADLINE_SECS) is None
        newest.close()
        poll(
            lambda: not any(thread.name == "test" for thread in threading.enumerate()),
            DEADLINE_SECS,
            "its thread ends",
        )
        assert done.empty()


class RemoteLake:
    """Takes uploads when it is told to."""

    is_local = False

    def __init__(self):
        self.gate = threading.Event()
        self.uploads = queue.Queue()

    def upload(self, source, path):
        assert self.gate.wait(DEADLINE_SECS)
        with open(source, "rb") as file:
            self.uploads.put((path, file.read()))


class TestLog:
    def test_of_a_local_lake_is_there_at_once(self, tmp_path):
        log = LogFile(RunDirectory(str(tmp_path), "r"), "logs/1/ps-0.log", str(tmp_path))
        log.local.write_bytes(b"one\ntwo\nthree\n")
        assert (tmp_path / "r" / "logs" / "1" / "ps-0.log").exists()
        assert log.tail(2) == "two\nthree"
        log.upload_soon()
        log.close()

    def test_is_uploaded_by_a_thread_where_it_has_grown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(logfile, "_UPLOAD_SECS", -1)
        lake = RemoteLake()
        log = LogFile(lake, "logs/1/ps-0.log", str(tmp_path))
        log.local.write_bytes(b"one\n")
        log.upload_soon()  # though the lake takes nothing yet
        lake.gate.set()
        assert lake.uploads.get(timeout=DEADLINE_SECS) == ("logs/1/ps-0.log", b"one\n")
        poll(lambda: log._uploaded == 4, DEADLINE_SECS, "the upload is over")
        log.upload_soon()
        with open(log.local, "ab") as file:
            file.write(b"two\n")
        log.close()
        assert lake.uploads.get(timeout=DEADLINE_SECS) == ("logs/1/ps-0.log", b"one\ntwo\n")
        log.close()
        assert lake.uploads.empty()
