"""A run without processes, threads and time: supervisors, driver and ZooKeeper in one thread.

What decides is the real thing: Lifecycle, Attempt with its Detector, decide(). What they decide on
is made here: processes that begin, train, fail and end; sessions that expire; messages that come
late. A tick is half a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

from helpers import Nodes, Tree

import tfos.driver.attempt
import tfos.driver.preflight
import tfos.driver.watcher
from tfos.driver.attempt import Attempt
from tfos.fault.failures import Failure, FailureKind, kind_of_exit
from tfos.fault.policy import GiveUp, NewAttempt
from tfos.lake.run_directory import checkpoint_name
from tfos.runtime import keys
from tfos.runtime.lifecycle import (
    AnnouncePreempted,
    AnnounceReady,
    Begin,
    End,
    Ended,
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
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.protocol import Failed, GotSigterm, IsReady, Outcome, Progress
from tfos.runtime.registry import RegistryAddress
from tfos.runtime.roles import all_tasks, role_jobs
from tfos.spec.job import JobSpec
from tfos.spec.roles import CHIEF, Task
from tfos.spec.times import TIMES

TICK_SECS = 0.5
IMPORT_TICKS, STEPS, SAVE_EVERY = 4, 40, 8
# a process of these keeps what a chief has put there, which the next chief would find
KEEPS_STATE = ("ps",)
# how long a process goes on that nobody reaches any more
CUT_OFF_SECS = 40.0
DRIVER = {"host": "d", "pid": 1, "since": 1.0}


def hop(task):
    """What TensorFlow adds to an error where a call to `task` fails with it."""
    return (
        "\nAdditional GRPC error information from remote target"
        f" /job:{task.role}/replica:0/task:{task.index} while calling /tensorflow:"
    )


class Lake:
    """The run directory: which chief counts, and the checkpoints' steps in their order.

    restored_by: the newest chief that has read the newest of them, (attempt, life).
    """

    def __init__(self):
        self.generation = None
        self.restored_by = (0, 0)
        self.saved = []

    def write_generation(self, attempt, life):
        self.generation = (attempt, life)

    def newest_checkpoint(self):
        return checkpoint_name(self.step) if self.saved else None

    @property
    def step(self):
        return self.saved[-1] if self.saved else 0


class Process:
    """One process of a task. It is killed by setting `status`."""

    def __init__(self, world, supervisor, life):
        self.world, self.supervisor, self.life = world, supervisor, life
        self.status = None
        self.is_started = self.is_ready = False
        self.step = 0
        self.peers = {}
        self._served = None
        self._left = IMPORT_TICKS

    @property
    def runs(self):
        return self.status is None

    def start(self):
        if not self.runs:  # an order that nobody reads
            return
        self.is_started = True
        self._left = IMPORT_TICKS
        self.peers = {
            task: self.world.process_of(task)
            for task in self.world.spec.topology.waits_for(self.supervisor.task)
        }

    def _connect(self):
        """To servers that no other chief has left something on."""
        for task, peer in self.peers.items():
            if peer is not None and task.role in KEEPS_STATE:
                if peer._served not in (None, self):
                    self.world.violations.append(f"{task} has served another chief")
                peer._served = self

    def _restore(self):
        lake = self.world.lake
        self.step = lake.step
        if self.supervisor.task.role == CHIEF:
            lake.restored_by = max(lake.restored_by, (self.supervisor.attempt, self.life))

    def tick(self):
        if not self.runs or not self.is_started:
            return
        self._left -= 1
        if self._left > 0:
            return
        task = self.supervisor.task
        if not self.is_ready:
            self.is_ready = True
            self._connect()
            self._restore()
            self.say(IsReady())
        # workers of parameter servers are replaced under a chief that goes on
        together = self.world.spec.topology.restarts_with(task.role)
        lost = self.world.out_of_reach(task)
        needed = [p for other, p in self.peers.items() if other.role in together]
        if lost is not None:
            self.fail(FailureKind.PEER, f"failed to connect{hop(lost)}")
        elif any(peer is None or not peer.runs for peer in needed):
            echoes = self.world.spec.topology.echoes(task.role)
            kind = FailureKind.EXCEPTION if echoes else FailureKind.PEER
            self.fail(kind, f"lost a peer of {task.role}")
        elif self.world.breaks and self.world.spec.topology.trains(task.role):
            self.fail(FailureKind.EXCEPTION, "no such column")
        elif task.role == CHIEF:
            self._train()
        elif self.world.spec.topology.trains(task.role) and self.world.is_trained:
            self._leave()

    def _train(self):
        told = self.world.told
        if told is not None:
            self.fail(FailureKind.PEER, f"failed to connect{hop(told[1])}{hop(told[0])}")
            return
        self.step += 1
        if self.step % SAVE_EVERY == 0:
            self.world.save(self)
        if not self.runs:
            return
        self.say(Progress({"phase": "train", "rows": 1, "step": self.step, "checkpoints": {}}))
        if self.step >= STEPS:
            self.world.is_trained = True
            self._leave()

    def _leave(self):
        self.say(Outcome({"metrics": {}, "checkpoints": {"step": self.world.lake.step}}))
        self.status = 0

    def fail(self, kind, message):
        self.say(Failed(kind, message))
        self.status = 1

    def say(self, message):
        self.supervisor.post(Said(self.life, message))


class Supervisor:
    """What tfos.runtime.supervisor does with a Lifecycle, without its threads."""

    def __init__(self, world, attempt, task):
        self.world, self.attempt, self.task = world, attempt, task
        topology = world.spec.topology
        self.waits_for = topology.waits_for(task)
        self.lifecycle = Lifecycle(
            task, frozenset(all_tasks(world.spec)), self.waits_for,
            topology.is_ready_at_once(task.role),
        )  # fmt: skip
        self.nodes = Nodes(world.tree, world.later)
        self.process = None
        self.why = ""
        self.is_dead = False
        self._events = []
        self._told_exit = None
        self._known = {}
        run = "r", attempt
        self.nodes.watch(keys.stop(*run), lambda v: v and self.post(Ended("the driver ended it")))
        self.nodes.watch(keys.lives(*run), self._lives)
        self.nodes.watch_children(keys.members(*run), self._members)
        for other in self.waits_for:
            self.nodes.watch(f"{keys.ready(*run)}/{other}", lambda _: self._read_ready())
        if task.role == CHIEF:
            self.nodes.watch_children(
                keys.preempted(*run), lambda names: names and self.post(Preempted())
            )

    @property
    def is_over(self):
        return bool(self.why) or self.is_dead

    def post(self, event):
        self._events.append(event)

    def _lives(self, value):
        if value is not None:
            lives = {Task.parse(name): life for name, life in value["lives"].items()}
            self.post(Lives(lives, value["hung"]))

    def _members(self, names):
        for name in names:
            record = self.nodes.get(f"{keys.members('r', self.attempt)}/{name}")
            if record:
                self._known[Task.parse(name)] = record["address"]
        self.post(Members(dict(self._known)))

    def _read_ready(self):
        ready = keys.ready("r", self.attempt)
        lives = {task: self.nodes.get(f"{ready}/{task}") for task in self.waits_for}
        self.post(Ready({task: life for task, life in lives.items() if life}))

    def tick(self):
        if self.is_over:
            return
        process = self.process
        if process is not None:
            process.tick()
            if not process.runs and self._told_exit is not process:
                self._told_exit = process
                self.post(Exited(process.life, process.status))
        events, self._events = self._events, []
        for event in events:
            for action in self.lifecycle.on(event):
                self._act(action)
                if self.is_over:
                    return

    def _act(self, action):
        run = "r", self.attempt
        match action:
            case Begin(life, _):
                self.world.kill(self.process)
                self.process = Process(self.world, self, life)
                self.world.began(self, life)
                me = {"host": f"host-of-{self.task}", "address": f"{self.task}:1", "life": life}
                self.nodes.hold(f"{keys.members(*run)}/{self.task}", me)
            case Start():
                self.process.start()
            case AnnounceReady(life):
                self.nodes.hold(f"{keys.ready(*run)}/{self.task}", life)
            case AnnouncePreempted(life):
                self.nodes.put(f"{keys.preempted(*run)}/{self.task}.{life}", True)
            case PublishProgress(progress):
                told = {**progress, "life": self.lifecycle.life}
                self.nodes.put(keys.progress(*run), told)
            case PublishOutcome(outcome):
                self.nodes.put(keys.outcome(*run), dict(outcome))
            case PublishFailure(life, failed, status):
                self.nodes.put(
                    f"{keys.failures(*run)}/{self.task}.{life}",
                    self._failure(life, failed, status).as_json(),
                )
            case SaveSoon():
                self.world.save(self.process)
            case End(why):
                self.end(why)

    def _failure(self, life, failed, status):
        failed = failed or Failed(kind_of_exit(status), f"ended with {status}")
        return Failure(
            self.task.role, self.task.index, f"host-of-{self.task}", failed.kind, failed.message,
            time=self.world.now, attempt=self.attempt, life=life,
        )  # fmt: skip

    def end(self, why):
        self.why = why
        self.world.kill(self.process)
        self.nodes.close()

    def die(self, is_cut_off=False):
        """As with SIGKILL: its process goes with it, its session only after a while.

        is_cut_off: for the others it looks so, but the process goes on.
        """
        self.is_dead = True
        if is_cut_off and self.process is not None:
            self.world.cut_off.append(self.process)
            self.world.after(CUT_OFF_SECS, lambda: self.world.kill(self.process))
        else:
            self.world.kill(self.process)
        self.world.after(TIMES.session_secs, self.nodes.close)


class World:
    """A run from its first attempt to its end. breaks: whether train() raises.

    violations: what was seen and must not be. ended: the chief's outcome, or a GiveUp.
    """

    def __init__(self, strategy, budget=4, breaks=False, delay=0):
        self.spec = JobSpec.of(strategy, max_restarts=budget, start_timeout_secs=60)
        self.breaks, self.delay = breaks, delay
        self.now = 1000.0
        self.tree, self.lake = Tree(), Lake()
        self.supervisors = []
        self.history, self.violations = [], []
        self.is_trained = False
        self.cut_off = []
        # until when a worker does not reach what it calls, and whether the chief fails of that
        self._unreachable: dict[Task, tuple[float, bool]] = {}
        self.ended = None
        self.attempts = 0
        self._begun = set()
        self._definite = False
        self._timers, self._order = [], itertools.count()
        self.driver = Nodes(self.tree, self.later)

    def __enter__(self):
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        self._patches = ExitStack()
        for module in (tfos.driver.attempt, tfos.driver.watcher):
            self._patches.enter_context(mock.patch.object(module, "time", clock))
        slots = mock.patch.object(tfos.driver.preflight, "describe_slots", lambda *_: "slots")
        self._patches.enter_context(slots)
        self._launch()
        return self

    def __exit__(self, *exc):
        self._patches.close()

    def after(self, secs, act):
        self._timers.append((self.now + secs, next(self._order), act))

    def later(self, watch):
        """What a watch has to tell comes some ticks later, in its order."""
        self.after(self.delay * TICK_SECS, lambda: watch.session._is_closed or watch())

    def process_of(self, task):
        here = [s for s in self.supervisors if s.task == task and not s.is_over]
        return here[0].process if here else None

    def kill(self, process, status=-9):
        if process is not None and process.runs:
            process.status = status

    def save(self, chief):
        """A chief commits a checkpoint: the fence as in tfos.runtime.host, and then the rest."""
        if chief is None or not chief.runs or not chief.is_ready:
            return
        writer = (chief.supervisor.attempt, chief.life)
        if self.lake.generation != writer:
            chief.fail(FailureKind.EXCEPTION, "fenced")
            return
        if chief.step <= self.lake.step:
            return
        if writer < self.lake.restored_by:
            self.violations.append(f"{writer} saves what {self.lake.restored_by} does not know")
        self.lake.saved.append(chief.step)

    def began(self, supervisor, life):
        name = (supervisor.attempt, supervisor.task, life)
        if name in self._begun:
            self.violations.append(f"{name} began twice")
        if self._definite:
            self.violations.append(f"{name} began after a definite end")
        self._begun.add(name)

    def _launch(self):
        self.attempts += 1
        address = RegistryAddress("h:1", "r", "secret")
        plan = AttemptPlan(self.spec, "r", self.attempts, self.lake, address, "m", DRIVER)
        display = SimpleNamespace(line=lambda text: None, progress=lambda progress: None)
        feeds = SimpleNamespace(begin=lambda: None, check=lambda: None, is_writing=False)
        executors = SimpleNamespace(is_dynamic=False)
        self.attempt = Attempt(None, plan, self.driver, display, self.history, feeds, executors)
        self.attempt._watcher.begin()
        self.attempt._order_lives(False)
        self.supervisors = [Supervisor(self, self.attempts, task) for task in all_tasks(self.spec)]

    def tick(self):
        """Half a second of everything."""
        self.now += TICK_SECS
        due = sorted(timer for timer in self._timers if timer[0] <= self.now)
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _, _, act in due:
            act()
        for supervisor in self.supervisors:
            supervisor.tick()
        for process in self.cut_off:
            process.tick()
        if self.ended is None:
            self._decide()

    def _decide(self):
        ended = self.attempt._step()
        if ended is None:
            return
        self._definite = not isinstance(ended, NewAttempt)
        self.attempt._watcher.end()
        self.driver.put(keys.stop("r", self.attempts), True)
        for supervisor in self.supervisors:  # Spark ends what does not end by itself
            if not supervisor.is_over:
                supervisor.end("cancelled")
        if isinstance(ended, NewAttempt):
            self._launch()
        else:
            self.ended = ended

    @property
    def has_succeeded(self):
        return isinstance(self.ended, Mapping)

    @property
    def has_given_up(self):
        return isinstance(self.ended, GiveUp)

    def _server_of(self, task):
        """What `task` calls, as far as there is anything: a server, else the chief."""
        roles = ["ps", CHIEF] if task.role == "worker" else []
        tasks = all_tasks(self.spec)
        return next((t for role in roles for t in tasks if t.role == role), None)

    def out_of_reach(self, task):
        """The server that `task` cannot reach, and fails of that; or None."""
        until, is_told = self._unreachable.get(task, (0.0, False))
        return self._server_of(task) if self.now < until and not is_told else None

    @property
    def told(self):
        """A worker that lives, and the server that it cannot reach, of which the chief fails."""
        for task, (until, is_told) in self._unreachable.items():
            process = self.process_of(task)
            if is_told and self.now < until and process is not None and process.runs:
                return task, self._server_of(task)
        return None

    # harms
    def lose_network(self, number, secs=20.0, is_told=False):
        """A worker reaches no server for a while; is_told: it serves, and tells the chief."""
        workers = [task for task in all_tasks(self.spec) if task.role == "worker"]
        if workers:
            self._unreachable[workers[number % len(workers)]] = (self.now + secs, is_told)

    def kill_process(self, number, status=-9):
        self.kill(self.supervisors[number % len(self.supervisors)].process, status)

    def preempt(self, number):
        process = self.supervisors[number % len(self.supervisors)].process
        if process is not None and process.runs:
            process.say(GotSigterm())
            process.say(Failed(FailureKind.PREEMPTED, "got SIGTERM"))
            process.status = 143

    def kill_supervisor(self, number, is_cut_off=False):
        """A barrier stage fails as a whole: all supervisors of its job go with the one."""
        victim = self.supervisors[number % len(self.supervisors)]
        if victim.is_over:
            return
        job = next(j for j in role_jobs(self.spec) if victim.task in j.tasks)
        attempt, supervisors = self.attempt, self.supervisors

        def stage_fails():
            for supervisor in supervisors:
                if supervisor.task in job.tasks and not supervisor.is_over:
                    supervisor.die()
            index = job.tasks.index(victim.task)
            attempt._jobs.errors[job.name] = f"Could not recover from ResultTask(3, {index})"

        victim.die(is_cut_off)
        self.after(2 * TICK_SECS, stage_fails)

    def lose_session(self, number):
        """Expired at the server, and held again when the client is back."""
        nodes = self.supervisors[number % len(self.supervisors)].nodes
        nodes.expire()
        self.after(2.0, lambda: None if nodes._is_closed else nodes.rejoin())
