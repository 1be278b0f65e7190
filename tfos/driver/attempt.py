"""One attempt: the role jobs launched once, watched and mended until they end."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tfos.compat.texts import FAILED_BARRIER_TASK
from tfos.driver import preflight
from tfos.driver.display import Display
from tfos.errors import LakeError, RegistryError, StartTimeout
from tfos.fault.failures import Failure, FailureKind, error_message, may_be_consequence, root_cause
from tfos.fault.policy import Decision, GiveUp, Incident, NewAttempt, Restart, decide
from tfos.lake.run_directory import checkpoint_order
from tfos.runtime import keys
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import Registry
from tfos.runtime.roles import all_tasks, role_jobs
from tfos.runtime.supervisor import supervise
from tfos.spec.roles import CHIEF, EVALUATOR, RoleJob, Task
from tfos.spec.times import TIMES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# how long a failure that may be a consequence waits for the one that explains it
_CAUSE_SECS = 1.5
_STOP_SECS = 15.0
# how long the evaluator may take for the last checkpoint, where --hang-secs does not say it
_EVALUATION_SECS = 300.0
_CANCEL_SECS = 10.0
# between two looks at how many slots there are
_SLOTS_EVERY_SECS = 2.0


class Feeding(Protocol):
    """What may go on beside the roles."""

    @property
    def is_writing(self) -> bool:
        """Whether it is under way, and needs slots of its own."""

    def begin(self) -> None:
        """Called when the roles have their slots; more than once."""

    def check(self) -> None:
        """Raises what went wrong with it."""


class Attempt:
    """Runs the role jobs of `plan` and ends them, whatever happens.

    history: the incidents of the run so far; those of this attempt are appended.
    feeds: may have a feed that is written beside the training.
    start_secs: from the launch to the begin of train(); train_secs: from there to the end.
    roles: of each task, what was known of it last: host, pid, life.
    checkpoints: of each life of the chief, what it said of them last.
    """

    def __init__(
        self,
        spark: SparkSession,
        plan: AttemptPlan,
        registry: Registry,
        display: Display,
        history: list[Incident],
        feeds: Feeding,
    ) -> None:
        self._spark = spark
        self._plan = plan
        self._registry = registry
        self._display = display
        self._history = history
        self._feeds = feeds
        self._changed: queue.Queue[None] = queue.Queue()
        self._job_errors: dict[str, str] = {}
        self._jobs: dict[str, Any] = {}
        self._progress: Mapping[str, Any] | None = None
        self._begun = time.monotonic()
        self._deadline = self._begun + plan.spec.start_timeout_secs
        self._train_begun: float | None = None
        # the tasks whose next process is to come up before the deadline
        self._awaited: set[Task] = set()
        self._chief_written = 0
        self._has_slots = False
        # when the feed beside the roles was last seen to have a slot, and when that was looked at
        self._fed = self._looked = time.monotonic()
        self._up: set[str] = set()
        self._missing: dict[str, float] = {}
        self.lives = dict.fromkeys(all_tasks(plan.spec), 1)
        self.roles: dict[str, Mapping[str, Any]] = {}
        self.checkpoints: dict[int, Mapping[str, Any]] = {}
        self.start_secs = 0.0
        self.train_secs = 0.0

    def run(self) -> Mapping[str, Any] | NewAttempt | GiveUp:
        """Blocks until the attempt is over; returns the chief's outcome, or what comes instead.

        Raises StartTimeout when the roles do not come up in time.
        """
        run_id, number = self._plan.run_id, self._plan.attempt
        tasks = all_tasks(self._plan.spec)
        self._display.line(f"starting {', '.join(map(str, tasks))}")
        for path in (keys.members, keys.ready, keys.failures):
            self._registry.watch_children(path(run_id, number), lambda _: self._changed.put(None))
        self._registry.watch(keys.outcome(run_id, number), lambda _: self._changed.put(None))
        self._registry.watch(keys.progress(run_id, number), self._progressed)
        hung = False
        try:
            self._registry.check_taken()
            self._order_lives(hung)
            for job in role_jobs(self._plan.spec):
                self._submit(job)
            ended = self._wait()
            if isinstance(ended, Mapping):
                self.checkpoints[self.lives[Task(CHIEF, 0)]] = ended["checkpoints"]
            hung = isinstance(ended, GiveUp) and ended.cause.kind is FailureKind.HANG
            return ended
        finally:
            self._note_start()
            self.train_secs = time.monotonic() - (self._train_begun or time.monotonic())
            self._display.close()
            self._end(hung)

    def _order_lives(self, hung: bool) -> None:
        """Says which life each task is to be in; to the lake, which chief counts."""
        run_id, number = self._plan.run_id, self._plan.attempt
        chief = self.lives[Task(CHIEF, 0)]
        # a lake that is out of order for a while does not keep a worker from being replaced
        if chief != self._chief_written:
            self._plan.lake.write_generation(number, chief)
            self._chief_written = chief
        lives = {str(task): life for task, life in self.lives.items()}
        self._registry.put(keys.lives(run_id, number), {"lives": lives, "hung": hung})

    def _progressed(self, progress: Mapping[str, Any] | None) -> None:
        if progress is not None:
            self._progress = progress
            if progress.get("checkpoints"):
                self.checkpoints[progress.get("life", 0)] = progress["checkpoints"]
        self._changed.put(None)

    def _submit(self, job: RoleJob) -> None:
        from pyspark import InheritableThread

        context = self._spark.sparkContext
        plan, tasks = self._plan, job.tasks

        def submit() -> None:
            context.setJobGroup(self._group(job), f"tfos {plan.run_id} {job.name}", True)
            try:
                ended = (
                    context.parallelize(range(len(tasks)), len(tasks))
                    .barrier()
                    .mapPartitions(lambda _: supervise(plan, tasks))
                    .collect()
                )
                self._job_errors[job.name] = "; ".join(f"{task}: {why}" for task, why in ended)
            except Exception as error:
                self._job_errors[job.name] = error_message(error)
            self._changed.put(None)

        thread = InheritableThread(target=submit, name=f"tfos-{job.name}", daemon=True)
        self._jobs[job.name] = (job, thread)
        thread.start()

    def _group(self, job: RoleJob) -> str:
        return f"tfos-{self._plan.run_id}-{self._plan.attempt}-{job.name}"

    def _wait(self) -> Mapping[str, Any] | NewAttempt | GiveUp:
        run_id, number = self._plan.run_id, self._plan.attempt
        while True:
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=0.2)
            self._show()
            outcome = self._registry.get(keys.outcome(run_id, number))
            if outcome is not None:
                self._await_evaluation(outcome)
                return dict(outcome)
            self._registry.check_taken()
            if self._feed():
                self._display.line(
                    "no slot has been left for making the feed for"
                    f" {self._plan.spec.start_timeout_secs:g} s: the roles give up theirs"
                )
                return NewAttempt()
            failures = self._failures()
            if failures:
                failures = self._with_cause(failures)
                # a supervisor that is done ends its job: what came first may be the success
                outcome = self._registry.get(keys.outcome(run_id, number))
                if outcome is not None:
                    self._await_evaluation(outcome)
                    return dict(outcome)
                decision = self._decide(failures)
                if not isinstance(decision, Restart):
                    return decision
                self._restart(decision, failures)
            if self._train_begun is None and time.monotonic() > self._deadline:
                self._raise_what_is_missing()

    def _feed(self) -> bool:
        """Lets the feed that is still to be written be so when all roles have their slots.

        Returns whether it starves: executors may be lost later, and the roles keep theirs.
        """
        if not self._has_slots:
            members = keys.members(self._plan.run_id, self._plan.attempt)
            self._has_slots = len(self._registry.children(members)) == len(self.lives)
        if self._has_slots:
            self._feeds.begin()
        self._feeds.check()
        now = time.monotonic()
        if not self._feeds.is_writing:
            self._fed = now
        elif now > self._looked + _SLOTS_EVERY_SECS:
            self._looked = now
            if preflight.available_slots(self._spark) > len(self.lives):
                self._fed = now
        return now > self._fed + self._plan.spec.start_timeout_secs

    def _await_evaluation(self, outcome: Mapping[str, Any]) -> None:
        """Blocks until the evaluator has done the last checkpoint, or failed, or is too slow."""
        spec = self._plan.spec
        if not spec.evaluator:
            return
        secs = spec.hang_secs or _EVALUATION_SECS
        deadline = time.monotonic() + secs
        failures = keys.failures(self._plan.run_id, self._plan.attempt)
        while time.monotonic() < deadline:
            done = self._plan.lake.evaluations()["evaluations"]
            if done and done[-1]["step"] >= outcome["checkpoints"]["step"]:
                return
            newest = f"evaluator-0.{self.lives[Task(EVALUATOR, 0)]}"
            if newest in self._registry.children(failures):
                break
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=0.5)
        self._display.line(
            "the last checkpoint is not evaluated: the evaluator failed, or took more than"
            f" {secs:g} s (--hang-secs)"
        )

    def _decide(self, failures: list[Failure]) -> Decision:
        self._history.append(Incident(tuple(failures), self._newest_step()))
        path = keys.failures(self._plan.run_id, self._plan.attempt)
        for failure in failures:  # those that only the driver saw, for who asks for the status
            self._registry.create(f"{path}/{failure.task}.{failure.life}", failure.as_json())
        spec = self._plan.spec
        decision = decide(self._history, spec.max_restarts, spec.topology)
        if not isinstance(decision, GiveUp):
            cause = root_cause(failures)
            self._display.line(
                f"{cause.role} {cause.index} on {cause.host} failed: {cause.headline}"
            )
        return decision

    def _newest_step(self) -> int:
        """Of the newest checkpoint so far; the chief may have died before it could tell of it."""
        steps = [int(stats.get("step", 0)) for stats in self.checkpoints.values()]
        steps += [incident.step for incident in self._history[-1:]]
        with contextlib.suppress(LakeError):  # then what was told before counts
            steps += (checkpoint_order(self._plan.lake.newest_checkpoint() or "") or ())[:1]
        return max(steps, default=0)

    def _restart(self, decision: Restart, failures: list[Failure]) -> None:
        chosen = [task for task in self.lives if decision.includes(task.role, task.index)]
        for task in chosen:
            self.lives[task] += 1
        self._awaited.update(chosen)
        self._deadline = time.monotonic() + self._plan.spec.start_timeout_secs
        self._display.line(f"restarting {', '.join(map(str, chosen))}")
        self._order_lives(root_cause(failures).kind is FailureKind.HANG)

    def _show(self) -> None:
        """Tells the display which roles have come up since, and how far the training is."""
        if self._progress is None:
            run_id, number = self._plan.run_id, self._plan.attempt
            for name in self._registry.children(keys.ready(run_id, number)):
                if name not in self._up:
                    self._up.add(name)
                    member = self._registry.get(f"{keys.members(run_id, number)}/{name}") or {}
                    self._display.line(f"{name} is up on {member.get('host')}")
        else:
            self._note_start()
            self._display.progress(self._progress)

    def _note_start(self) -> None:
        if self._train_begun is None:
            self.start_secs = time.monotonic() - self._begun
            if self._progress is not None:
                self._train_begun = time.monotonic()

    def _failures(self) -> list[Failure]:
        """What has failed and has not been dealt with."""
        path = keys.failures(self._plan.run_id, self._plan.attempt)
        found = []
        for name in self._registry.children(path):
            task, _, life = name.rpartition(".")
            # a process that was to be replaced may fail in its own way before it is; 0: never begun
            if int(life) in (0, self.lives[Task.parse(task)]):
                found.append(Failure.from_json(self._registry.get(f"{path}/{name}")))
        told = {failure.task for failure in found}
        for name in self._gone():
            if name not in told:
                words = "its supervisor is gone, and with it perhaps its executor or its host"
                found.append(self._failure(Task.parse(name), words))
        told = {failure.task for failure in found}
        for job_name, message in self._job_errors.items():
            job = self._jobs[job_name][0]
            words = f"the Spark job of the {job_name} roles ended: {message}"
            found.append(self._failure(failed_task(message, job, told, self._missing), words))
        if not found:
            secs = self._plan.spec.start_timeout_secs
            words = (
                f"its next process was not up within {secs:g} s; if that is too short for fetching"
                " a checkpoint, raise --start-timeout-secs"
            )
            found += [self._failure(task, words, FailureKind.START) for task in self._late()]
        return found

    def _failure(self, task: Task, message: str, kind: FailureKind = FailureKind.SPARK) -> Failure:
        host = self.roles.get(str(task), {}).get("host", "unknown host")
        return Failure(
            task.role, task.index, host, kind, message, time=time.time(),
            attempt=self._plan.attempt, life=self.lives[task],
        )  # fmt: skip

    def _late(self) -> list[Task]:
        """The tasks that were restarted and are not up, when the time for it is over."""
        if not self._awaited:
            return []
        path = keys.ready(self._plan.run_id, self._plan.attempt)
        progress = self._progress or {}
        for task in sorted(self._awaited):
            # of workers in step "ready" says no more than that there is a process
            is_up = (
                progress.get("life") == self.lives[task]
                if task.role == CHIEF
                else self._registry.get(f"{path}/{task}") == self.lives[task]
            )
            if is_up:
                self._awaited.discard(task)
        return sorted(self._awaited) if time.monotonic() > self._deadline else []

    def _gone(self) -> list[str]:
        """The members that were there and have been missing for long."""
        members = keys.members(self._plan.run_id, self._plan.attempt)
        here = set(self._registry.children(members))
        for name in here:
            life = self.lives[Task.parse(name)]
            if self.roles.get(name, {}).get("life") != life:
                record = self._registry.get(f"{members}/{name}") or {}
                self.roles[name] = record
        now = time.monotonic()
        self._missing = {name: self._missing.get(name, now) for name in self.roles.keys() - here}
        if not self._registry.is_settled:
            return []
        return sorted(n for n, since in self._missing.items() if now - since > TIMES.missing_secs)

    def _with_cause(self, failures: list[Failure]) -> list[Failure]:
        """The failures, a moment later when what is known may be a consequence of what is not."""
        deadline = time.monotonic() + _CAUSE_SECS
        while may_be_consequence(root_cause(failures)) and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=0.1)
            failures = self._failures()
        return failures

    def _raise_what_is_missing(self) -> None:
        run_id, number = self._plan.run_id, self._plan.attempt
        here = {Task.parse(n) for n in self._registry.children(keys.members(run_id, number))}
        ready = {Task.parse(n) for n in self._registry.children(keys.ready(run_id, number))}
        absent = sorted(set(all_tasks(self._plan.spec)) - here)
        slow = sorted(self._plan.spec.topology.waits_for(Task(CHIEF, 0)) & here - ready)
        raise StartTimeout(
            f"not all roles came up within {self._plan.spec.start_timeout_secs:g} s: "
            + "; ".join(
                f"{what}: {', '.join(map(str, tasks))}"
                for what, tasks in (
                    ("never registered", absent),
                    ("TensorFlow not up", slow),
                    ("train() not begun", [] if absent or slow else [Task(CHIEF, 0)]),
                )
                if tasks
            )
            + f"; {preflight.describe_slots(self._spark, self._plan.spec)}; raise"
            " --start-timeout-secs, or free slots on the cluster"
        )

    def _end(self, hung: bool) -> None:
        """Ends every supervisor, and the jobs that do not end by themselves."""
        stop = keys.stop(self._plan.run_id, self._plan.attempt)
        if self._registry.connected_secs():  # else Spark ends them, below
            with contextlib.suppress(RegistryError):
                self._registry.put(stop, "hang" if hung else True)
        self._join(_STOP_SECS)
        for job, thread in self._jobs.values():
            if thread.is_alive():
                with contextlib.suppress(Exception):  # the Spark context may be gone already
                    self._spark.sparkContext.cancelJobGroup(self._group(job))
        self._join(_CANCEL_SECS)

    def _join(self, secs: float) -> None:
        deadline = time.monotonic() + secs
        for _, thread in self._jobs.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def failed_task(
    message: str, job: RoleJob, told: Collection[str] = (), missing: Collection[str] = ()
) -> Task:
    """The task of `job` that failed.

    That is the one that Spark's words about a failed barrier stage name; where they name none, one
    that told of a failure, or that is missing; the job's first when nothing is known.
    """
    named = FAILED_BARRIER_TASK.search(message)
    if named:
        return job.tasks[int(named.group(1))]
    return min(job.tasks, key=lambda task: (str(task) not in told, str(task) not in missing))
