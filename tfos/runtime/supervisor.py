"""The supervisor: the code in a Spark task that runs one role's TensorFlow process.

It holds the role's port, registers, waits for the other roles, starts the TF process as a child,
and ends it when the run ends. What it decides is in runtime.lifecycle; here are the sockets, the
process, and the threads that turn what happens into events of one queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfos.errors import LakeError, RegistryError
from tfos.fault.failures import Failure
from tfos.lake import Lake, remove_local
from tfos.runtime import keys
from tfos.runtime.lifecycle import (
    Action,
    AnnounceReady,
    End,
    Ended,
    Event,
    Exited,
    Lifecycle,
    Members,
    PublishFailure,
    PublishOutcome,
    PublishProgress,
    Ready,
    Said,
    Start,
)
from tfos.runtime.main import CHANNEL_FD, StartOrder
from tfos.runtime.process import ChildProcess, describe_status
from tfos.runtime.registry import Registry, RegistryAddress
from tfos.runtime.roles import Task, all_tasks, servers
from tfos.spec import JobSpec

_LOG_TAIL_LINES = 15
_LOG_UPLOAD_SECS = 10.0


@dataclass(frozen=True)
class AttemptPlan:
    """What every supervisor of an attempt is told. Picklable.

    marker: a file in the run directory that every executor must see.
    """

    spec: JobSpec
    run_id: str
    attempt: int
    lake: Lake
    registry: RegistryAddress
    marker: str


def local_address(peer: tuple[str, int]) -> str:
    """The address of this machine on the way to `peer`. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return str(probe.getsockname()[0])


def hold_port(host: str) -> socket.socket:
    """A free port on `host`, bound but not listening, that another process may bind as well.

    TensorFlow's server binds it with TF_GRPC_REUSE_PORT=true; while we hold it no stranger can.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, 0))
    return held


class Supervisor:
    """Runs one role from registration to its end, in the thread that calls run()."""

    def __init__(self, plan: AttemptPlan, task: Task) -> None:
        self._plan = plan
        self._task = task
        self._events: queue.Queue[Event] = queue.Queue()
        expected = frozenset(all_tasks(plan.spec))
        self._lifecycle = Lifecycle(task, expected, servers(plan.spec))
        self._host = socket.gethostname()
        self._log_path = f"logs/{plan.attempt}/{task}.log"

    def run(self) -> str:
        """Blocks until the role is over; returns why it ended.

        Raises RegistryError or LakeError when this executor cannot take part.
        """
        plan = self._plan
        if not plan.lake.exists(plan.marker):
            raise LakeError(
                f"executor host {self._host} does not see {plan.lake.uri(plan.marker)}, which the"
                " driver wrote: name a lake that all machines share with --lake"
            )
        address = local_address(plan.registry.first_server())
        with hold_port(address) as held, Registry(plan.registry) as registry:
            self._registry = registry
            self._scratch = tempfile.mkdtemp(prefix=f"tfos-{self._task}-")
            try:
                self._start_child()
                try:
                    self._join(address, held.getsockname()[1])
                    return self._serve()
                finally:
                    self._child.end()
                    self._upload_log()
            finally:
                remove_local(self._scratch)

    def _start_child(self) -> None:
        if self._plan.lake.is_local:
            self._log = Path(self._plan.lake.path(self._log_path))
            self._log.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._log = Path(self._scratch, "log")
        read_end, write_end = os.pipe()
        env = {
            **os.environ,
            # what Spark shipped to this executor is on sys.path: the child needs it as well
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            "TF_GRPC_REUSE_PORT": "true",
            "GRPC_FAIL_FAST": "use_caller",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
            "KERAS_BACKEND": "tensorflow",
            CHANNEL_FD: str(write_end),
        }
        with open(self._log, "ab") as log:
            self._child = ChildProcess(
                # faulthandler: a crash in C leaves the Python stack in the log; the arguments are
                # for who reads `ps`
                [sys.executable, "-X", "faulthandler", "-m", "tfos.runtime.main"]
                + [str(self._task), self._plan.run_id],
                env=env,
                log=log.fileno(),
                scratch=self._scratch,
                pass_fds=[write_end],
            )
        os.close(write_end)
        threading.Thread(target=self._listen, args=(read_end,), daemon=True).start()

    def _listen(self, read_end: int) -> None:
        """What the child says, and then its end, as events."""
        with os.fdopen(read_end, "rb") as channel:
            for line in channel:
                self._events.put(Said(json.loads(line)))
        self._events.put(Exited(self._child.wait()))

    def _join(self, address: str, port: int) -> None:
        registry, run_id, attempt = self._registry, self._plan.run_id, self._plan.attempt
        registry.on_lost(lambda: self._events.put(Ended("its session with ZooKeeper was lost")))
        registry.watch(
            keys.stop(run_id, attempt),
            lambda value: self._events.put(Ended("the driver ended it")) if value else None,
        )
        registry.watch(
            keys.driver(run_id),
            lambda value: self._events.put(Ended("the driver is gone")) if value is None else None,
        )
        me = {"host": self._host, "address": f"{address}:{port}", "pid": self._child.pid}
        registry.create(f"{keys.members(run_id, attempt)}/{self._task}", me, ephemeral=True)
        # kazoo's callbacks must not block, and reading the members takes calls: our thread does it
        self._members_changed = threading.Event()
        self._known: dict[Task, str] = {}
        registry.watch_children(
            keys.members(run_id, attempt), lambda names: self._members_changed.set()
        )
        registry.watch_children(
            keys.ready(run_id, attempt),
            lambda names: self._events.put(Ready(frozenset(map(Task.parse, names)))),
        )

    def _read_members(self) -> None:
        members = keys.members(self._plan.run_id, self._plan.attempt)
        for name in self._registry.children(members):
            task = Task.parse(name)
            record = task not in self._known and self._registry.get(f"{members}/{name}")
            if record:
                self._known[task] = record["address"]
        self._events.put(Members(dict(self._known)))

    def _serve(self) -> str:
        uploaded = time.monotonic()
        while True:
            if self._members_changed.is_set():
                self._members_changed.clear()
                self._read_members()
            try:
                event = self._events.get(timeout=0.1)
            except queue.Empty:
                if not self._plan.lake.is_local and time.monotonic() - uploaded > _LOG_UPLOAD_SECS:
                    uploaded = time.monotonic()
                    self._upload_log()
                continue
            for action in self._lifecycle.on(event):
                if isinstance(action, End):
                    return action.why
                self._act(action)

    def _act(self, action: Action) -> None:
        run_id, attempt = self._plan.run_id, self._plan.attempt
        match action:
            case Start(cluster):
                order = StartOrder(
                    role=self._task.role,
                    index=self._task.index,
                    attempt=attempt,
                    cluster=cluster,
                    spec=self._plan.spec.as_json(),
                    lake=self._plan.lake.url,
                    run_id=run_id,
                    scratch=self._scratch,
                )
                try:
                    self._child.stdin.write(order.to_line())
                    self._child.stdin.flush()
                except BrokenPipeError:
                    pass  # it has just died: its exit is the next event
            case AnnounceReady():
                node = f"{keys.ready(run_id, attempt)}/{self._task}"
                self._registry.create(node, True, ephemeral=True)
            case PublishProgress(progress):
                self._registry.put(keys.progress(run_id, attempt), progress)
            case PublishOutcome(outcome):
                self._registry.put(keys.outcome(run_id, attempt), outcome)
            case PublishFailure(failure, status):
                record = self._failure(failure, status).as_json()
                self._registry.put(f"{keys.failures(run_id, attempt)}/{self._task}", record)

    def _failure(self, said: Mapping[str, Any] | None, status: int) -> Failure:
        if said is None:
            said = {
                "kind": "signal" if status < 0 else "exit",
                "message": f"the {self._task.role} process {describe_status(status)}; its log ends"
                f" with the lines below ({self._plan.lake.uri(self._log_path)})",
                "traceback": self._log_tail(),
            }
        return Failure(
            role=self._task.role,
            index=self._task.index,
            host=self._host,
            kind=said["kind"],
            message=said["message"],
            traceback=said["traceback"],
            time=time.time(),
        )

    def _log_tail(self) -> str:
        with open(self._log, "rb") as log:
            log.seek(max(0, self._log.stat().st_size - 16_384))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _upload_log(self) -> None:
        if not self._plan.lake.is_local:
            with contextlib.suppress(LakeError):  # a log is worth no run
                self._plan.lake.upload(str(self._log), self._log_path)


def supervise(plan: AttemptPlan, tasks: tuple[Task, ...]) -> list[tuple[str, str]]:
    """The body of a barrier task: supervises the task of its partition.

    Returns [(task, why it ended)]. An executor that cannot take part is recorded as a failure of
    its task, where the registry can be reached, before the exception ends the barrier stage.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    task = tasks[context.partitionId()]
    try:
        return [(str(task), Supervisor(plan, task).run())]
    except Exception as error:
        failure = Failure(
            task.role, task.index, socket.gethostname(), "start", str(error), time=time.time()
        )
        # first wins: what the role itself had to say stays
        with contextlib.suppress(RegistryError), Registry(plan.registry) as registry:
            path = f"{keys.failures(plan.run_id, plan.attempt)}/{task}"
            registry.create(path, failure.as_json())
        raise
