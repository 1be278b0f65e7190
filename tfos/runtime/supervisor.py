"""The supervisor: the code in a Spark task that runs one role's TensorFlow process.

It holds the role's port, registers, waits for the other roles, starts the TF process as a child,
gives it a successor when the driver says so, and ends it when the run ends. What it decides is in
runtime.lifecycle; here are the sockets, the process, and the threads that turn what happens into
events of one queue.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfos.errors import PreflightError, RegistryError
from tfos.fault.failures import Failure, FailureKind, kind_of_exit
from tfos.fault.hang import HangWatch
from tfos.lake.run_directory import log_path
from tfos.lake.storage import remove_local
from tfos.runtime import keys, probe
from tfos.runtime.background import Newest
from tfos.runtime.child import TFProcess
from tfos.runtime.devices import visible
from tfos.runtime.lifecycle import (
    Action,
    AnnouncePreempted,
    AnnounceReady,
    Begin,
    End,
    Ended,
    Event,
    Exited,
    Lifecycle,
    Lives,
    Members,
    Preempted,
    PublishFailure,
    PublishOutcome,
    PublishProgress,
    Ready,
    Said,
    SaveSoon,
    Start,
)
from tfos.runtime.logfile import LogFile
from tfos.runtime.memory_kills import MemoryKills
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.ports import hold_port, local_address
from tfos.runtime.process import describe_end
from tfos.runtime.protocol import Failed, StartOrder
from tfos.runtime.registry import Registry
from tfos.runtime.roles import all_tasks
from tfos.spec.roles import CHIEF, EVALUATOR, Task
from tfos.spec.times import TIMES

_TICK_SECS = 0.1
_LOG_TAIL_LINES = 15
_STACK_LINES = 60
_MESSAGE_CHARS = 20_000
_TRACEBACK_CHARS = 100_000
_STOPPED_HUNG = "the driver ended it, since a role hung"


class Supervisor:
    """Runs one role from registration to its end, in the thread that calls run().

    gpus: the addresses that Spark has assigned to this task, None where it assigns none.
    """

    def __init__(self, plan: AttemptPlan, task: Task, gpus: Sequence[str] | None = None) -> None:
        self._plan = plan
        self._devices = visible(plan.spec.topology, task, gpus)
        self._task = task
        self._events: queue.Queue[Event] = queue.Queue()
        topology = plan.spec.topology
        self._waits_for = topology.waits_for(task)
        self._lifecycle = Lifecycle(
            task,
            frozenset(all_tasks(plan.spec)),
            self._waits_for,
            topology.is_ready_at_once(task.role),
        )
        self._host = socket.gethostname()
        self._process: TFProcess | None = None
        self._prepared: TFProcess | None = None
        self._driver_here = threading.Event()
        self._driver_seen = time.monotonic()
        self._members_changed = threading.Event()
        self._ready_changed = threading.Event()
        self._known: dict[Task, str] = {}
        self._memory_kills = MemoryKills()

    def run(self) -> str:
        """Blocks until the role is over; returns why it ended.

        Raises RegistryError, LakeError or PreflightError when this executor cannot take part.
        """
        plan = self._plan
        problem = probe.problem(
            probe.look(plan.lake, plan.marker), plan.lake, plan.marker, plan.versions
        )
        if problem is not None:
            raise PreflightError(problem)
        address = local_address(plan.registry.first_server())
        self._scratch = tempfile.mkdtemp(prefix=f"tfos-{self._task}-")
        self._log = LogFile(plan.lake, log_path(plan.attempt, self._task), self._scratch)
        self._progress = Newest("progress", self._publish_progress)
        try:
            if plan.server is None:  # its import overlaps with what follows
                self._prepared = self._new_process()
            with hold_port(address) as held, Registry(plan.registry) as registry:
                self._registry = registry
                self._address = f"{address}:{held.getsockname()[1]}"
                self._join()
                return self._serve()
        finally:
            for process in (self._process, self._prepared):
                if process is not None:
                    process.end()
            self._progress.close()
            self._log.close()
            remove_local(self._scratch)

    def _new_process(self) -> TFProcess:
        topology, role = self._plan.spec.topology, self._task.role
        return TFProcess(
            self._task,
            self._plan.run_id,
            topology,
            self._scratch,
            self._log.local,
            lambda process, message: self._events.put(Said(process.life, message)),
            lambda process, status: self._events.put(Exited(process.life, status)),
            self._plan.server,
            self._plan.preload if topology.trains(role) or role == EVALUATOR else (),
            self._devices,
        )

    def _join(self) -> None:
        """Follows what the registry says; kazoo's threads only leave notes for ours."""
        registry, run_id, attempt = self._registry, self._plan.run_id, self._plan.attempt
        registry.watch(keys.stop(run_id, attempt), self._stopped)
        registry.watch(keys.driver(run_id), self._driver_changed)
        registry.watch(keys.lives(run_id, attempt), self._lives_ordered)
        registry.watch_children(
            keys.members(run_id, attempt), lambda names: self._members_changed.set()
        )
        for task in self._waits_for:
            registry.watch(
                f"{keys.ready(run_id, attempt)}/{task}", lambda _: self._ready_changed.set()
            )
        if self._task.role == CHIEF:
            registry.watch_children(
                keys.preempted(run_id, attempt),
                lambda names: self._events.put(Preempted()) if names else None,
            )

    def _driver_changed(self, value: Any) -> None:
        if value is None:
            self._driver_here.clear()
        elif value == self._plan.driver:
            self._driver_here.set()
        else:  # ours may be gone for less time than it takes to notice
            self._events.put(Ended("another driver has taken over the run"))

    def _lives_ordered(self, value: Any) -> None:
        if value is not None:
            self._events.put(Lives(_by_task(value["lives"]), value["hung"]))

    def _stopped(self, value: Any) -> None:
        if value is not None:
            self._events.put(Ended(_STOPPED_HUNG if value == "hang" else "the driver ended it"))

    def _read_members(self) -> None:
        members = keys.members(self._plan.run_id, self._plan.attempt)
        for name in self._registry.children(members):
            task = Task.parse(name)
            record = task not in self._known and self._registry.get(f"{members}/{name}")
            if record:
                self._known[task] = record["address"]
        self._events.put(Members(dict(self._known)))

    def _read_ready(self) -> None:
        ready = keys.ready(self._plan.run_id, self._plan.attempt)
        lives = {t: self._registry.get(f"{ready}/{t}") for t in self._waits_for}
        self._events.put(Ready({task: life for task, life in lives.items() if life}))

    def _serve(self) -> str:
        looked = 0.0
        while True:
            if time.monotonic() - looked > _TICK_SECS:  # whatever events there are
                looked = time.monotonic()
                self._look_around()
                self._log.upload_soon()
            if self._members_changed.is_set():
                self._members_changed.clear()
                self._read_members()
            if self._ready_changed.is_set():
                self._ready_changed.clear()
                self._read_ready()
            try:
                event = self._events.get(timeout=_TICK_SECS)
            except queue.Empty:
                continue
            for action in self._lifecycle.on(event):
                if isinstance(action, End):
                    if action.why == _STOPPED_HUNG and self._process and self._process.is_running:
                        self._process.write_stacks()
                    return action.why
                self._act(action)

    def _look_around(self) -> None:
        """What no event tells: a driver that is gone, a process that hangs."""
        now = time.monotonic()
        if self._driver_here.is_set() or not self._registry.is_settled:
            self._driver_seen = now
        if now - self._driver_seen > TIMES.driver_grace_secs:
            self._events.put(Ended("the driver is gone"))
        if self._registry.lost_secs() > TIMES.outage_secs:
            self._events.put(Ended(f"no ZooKeeper server answered for {TIMES.outage_secs:g} s"))
        process = self._process
        if process is not None and process.watch is not None and process.is_running:
            why = process.watch.verdict(now)
            if why is not None:
                self._end_hung(process, process.watch, why)

    def _end_hung(self, process: TFProcess, watch: HangWatch, why: str) -> None:
        kind, what = (
            (FailureKind.HANG, "hung") if watch.has_met else (FailureKind.PEER, "was alone")
        )
        process.watch = None
        process.write_stacks()
        failed = Failed(
            kind,
            f"{self._task.role} process {what}: {why}; what its threads were doing is"
            f" below, and that of the other roles in {self._plan.lake.uri('logs')}",
            self._log.tail(_STACK_LINES),
        )
        self._events.put(Said(process.life, failed))
        process.kill()

    def _begin(self, life: int, stacks: bool) -> None:
        """A process for the next life."""
        before = self._process
        if before is not None:
            if stacks and before.is_running:
                before.write_stacks()
            before.end()
        if before is None:  # the executor's fork server may be importing yet
            self._register(life, None)
        self._memory_kills = MemoryKills()
        process, self._prepared = self._prepared or self._new_process(), None
        process.begin(life, self._plan.spec.hang_secs)
        if not process.is_running:  # one that died before it had a life to tell of
            self._events.put(Exited(life, process.status))
        self._process = process
        self._register(life, process.pid)

    def _register(self, life: int, pid: int | None) -> None:
        """Tells that this task has its slot and its port; pid: of its process, when it has one."""
        me = {"host": self._host, "address": self._address, "pid": pid, "life": life}
        self._registry.hold(
            f"{keys.members(self._plan.run_id, self._plan.attempt)}/{self._task}", me
        )

    def _act(self, action: Action) -> None:
        run_id, attempt = self._plan.run_id, self._plan.attempt
        process = self._process
        match action:
            case Begin(life, stacks):
                self._begin(life, stacks)
            case Start(addresses) if process is not None:
                process.order(
                    StartOrder(
                        role=self._task.role,
                        index=self._task.index,
                        attempt=attempt,
                        life=process.life,
                        addresses=addresses,
                        spec=self._plan.spec.as_json(),
                        lake=self._plan.lake.url,
                        run_id=run_id,
                        scratch=process.scratch,
                        secret=self._plan.registry.secret,
                    )
                )
            case SaveSoon() if process is not None:
                process.save_soon()
            case AnnounceReady(life):
                self._registry.hold(f"{keys.ready(run_id, attempt)}/{self._task}", life)
            case AnnouncePreempted(life):
                self._registry.put(f"{keys.preempted(run_id, attempt)}/{self._task}.{life}", True)
            case PublishProgress(progress):
                self._progress.give({**progress, "life": self._lifecycle.life})
            case PublishOutcome(outcome):
                self._registry.put(keys.outcome(run_id, attempt), outcome)
            case PublishFailure(life, failure, status):
                record = self._failure(life, failure, status).as_json()
                self._registry.put(f"{keys.failures(run_id, attempt)}/{self._task}.{life}", record)

    def _failure(self, life: int, said: Failed | None, status: int) -> Failure:
        if said is None and status == 128 + signal.SIGTERM:
            # what it says before it has a life is not heard; it may get it just after its SIGTERM
            said = Failed(FailureKind.PREEMPTED, "got SIGTERM")
        if said is None:
            is_echo = self._plan.spec.topology.tells_of_a_lost_peer(status)
            said = Failed(
                FailureKind.PEER if is_echo else kind_of_exit(status),
                self._memory_kills.explain(status) or describe_end(status),
                # not in the message, which is compared with that of other tasks and attempts
                f"{self._log.uri} ends with\n{self._log.tail(_LOG_TAIL_LINES)}",
            )
        return Failure(
            role=self._task.role,
            index=self._task.index,
            host=self._host,
            kind=said.kind,
            # a node of ZooKeeper holds 1 MiB
            message=said.message[:_MESSAGE_CHARS],
            traceback=said.traceback[-_TRACEBACK_CHARS:],
            time=time.time(),
            attempt=self._plan.attempt,
            life=life,
        )

    def _publish_progress(self, progress: Mapping[str, Any]) -> None:
        """Not in the loop: without ZooKeeper it would wait, and see nothing of what happens."""
        with contextlib.suppress(RegistryError):  # what comes next says more
            self._registry.put(keys.progress(self._plan.run_id, self._plan.attempt), progress)


def _by_task(names: Mapping[str, int]) -> dict[Task, int]:
    return {Task.parse(name): life for name, life in names.items()}
