"""One attempt: the role jobs launched once, watched and mended until they end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tfos.driver import preflight
from tfos.driver.detector import Detector
from tfos.driver.display import Display
from tfos.driver.executors import Executors
from tfos.driver.jobs import SparkJobs
from tfos.driver.parting import save_first
from tfos.driver.watcher import AttemptWatcher
from tfos.errors import LakeError, RegistryError, StartTimeout, Terminated
from tfos.fault.failures import Failure, FailureKind, may_be_consequence, root_cause
from tfos.fault.policy import Decision, GiveUp, Incident, NewAttempt, Restart, decide
from tfos.lake.run_directory import checkpoint_order
from tfos.runtime import keys
from tfos.runtime.nodes import AttemptNodes
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import Registry
from tfos.runtime.roles import all_tasks
from tfos.spec.roles import CHIEF, EVALUATOR, Task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TICK_SECS = 0.2
# how long a failure that may be a consequence waits for the one that explains it
_CAUSE_SECS = 1.5
# how long the evaluator may take for the last checkpoint, where --hang-secs does not say it
_EVALUATION_SECS = 300.0
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
        executors: Executors,
    ) -> None:
        self._spark = spark
        self._plan = plan
        self._registry = registry
        self._display = display
        self._history = history
        self._feeds = feeds
        self._changed = threading.Event()
        self._jobs = SparkJobs(spark, executors, plan, self._changed.set)
        self._nodes = AttemptNodes()
        self._watcher = AttemptWatcher(
            registry,
            plan.run_id,
            plan.attempt,
            all_tasks(plan.spec),
            self._changed.set,
            self._progressed,
        )
        self._begun = time.monotonic()
        self._detector = Detector(plan.spec, plan.attempt, self._begun)
        self._train_begun: float | None = None
        # when what was seen to have failed is dealt with, though it may be a consequence
        self._cause_due: float | None = None
        # when the lives that are decided are ordered, and whether after a hang; None: they are
        self._order_due: tuple[float, bool] | None = None
        self._chief_written = 0
        self._has_slots = False
        # when the feed beside the roles was last seen to have a slot, and when that was looked at
        self._fed = self._looked = time.monotonic()
        self._up: set[str] = set()
        self.checkpoints: dict[int, Mapping[str, Any]] = {}
        self.start_secs = 0.0
        self.train_secs = 0.0

    @property
    def lives(self) -> Mapping[Task, int]:
        """The life that each task is to be in."""
        return self._detector.lives

    @property
    def roles(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each task, what was known of it last: host, pid, life."""
        return self._detector.roles

    def run(self) -> Mapping[str, Any] | NewAttempt | GiveUp:
        """Blocks until the attempt is over; returns the chief's outcome, or what comes instead.

        Raises StartTimeout when the roles do not come up in time.
        """
        self._display.line(f"starting {', '.join(map(str, self.lives))}")
        self._watcher.begin()
        hung = False
        try:
            self._registry.check_taken()
            self._order_lives(hung)
            self._jobs.begin()
            ended = self._wait()
            if isinstance(ended, Mapping):
                self.checkpoints[self.lives[Task(CHIEF, 0)]] = ended["checkpoints"]
            hung = isinstance(ended, GiveUp) and ended.cause.kind is FailureKind.HANG
            return ended
        except Terminated:
            if self._train_begun is not None:
                a = "a" if save_first(self._plan, self._registry) else "no"
                self._display.line(f"got SIGTERM: {a} checkpoint was saved first")
            raise
        finally:
            self._note_start()
            self.train_secs = time.monotonic() - (self._train_begun or time.monotonic())
            self._display.close()
            self._end(hung)

    def _order_lives(self, hung: bool) -> None:
        """Says which life each task is to be in; to the lake, which chief counts."""
        self._order_due = None
        run_id, number = self._plan.run_id, self._plan.attempt
        chief = self.lives[Task(CHIEF, 0)]
        # a lake that is out of order for a while does not keep a worker from being replaced
        if chief != self._chief_written:
            self._plan.lake.write_generation(number, chief)
            self._chief_written = chief
        lives = {str(task): life for task, life in self.lives.items()}
        self._registry.put(keys.lives(run_id, number), {"lives": lives, "hung": hung})

    def _progressed(self, progress: Mapping[str, Any]) -> None:
        if progress.get("checkpoints"):
            self.checkpoints[progress.get("life", 0)] = progress["checkpoints"]

    def _wait(self) -> Mapping[str, Any] | NewAttempt | GiveUp:
        while True:
            self._changed.wait(_TICK_SECS)
            self._changed.clear()
            ended = self._step()
            if ended is not None:
                return ended

    def _step(self) -> Mapping[str, Any] | NewAttempt | GiveUp | None:
        """Looks once at what there is, and does what it calls for; returns what ends the attempt.

        Blocks for no more than the registry and the lake do, but for the evaluator's end.
        """
        self._look()
        self._show()
        if self._nodes.outcome is not None:
            return self._succeeded(self._nodes.outcome)
        self._registry.check_taken()
        if self._feed():
            self._display.line(
                "no slot has been left for making the feed for"
                f" {self._plan.spec.start_timeout_secs:g} s: the roles give up theirs"
            )
            return NewAttempt()
        self._order_when_due()
        failures = self._failures()
        if not failures:
            self._cause_due = None
        elif self._is_clear(failures):
            self._cause_due = None
            return self._handle_failures()
        if self._train_begun is None and self._detector.is_over_time(time.monotonic()):
            self._raise_what_is_missing()
        return None

    def _look(self) -> None:
        self._nodes = self._watcher.look()

    def _succeeded(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        self._await_evaluation(outcome)
        return dict(outcome)

    def _is_clear(self, failures: list[Failure]) -> bool:
        """Whether to deal with them now: what is known may be a consequence of what comes next."""
        if not may_be_consequence(root_cause(failures)):
            return True
        now = time.monotonic()
        if self._cause_due is None:
            self._cause_due = now + _CAUSE_SECS
        return now > self._cause_due

    def _handle_failures(self) -> Mapping[str, Any] | NewAttempt | GiveUp | None:
        """Of what is there now: a watch may tell of one node earlier than of another."""
        self._watcher.refresh()
        failures = self._failures()
        # a supervisor that is done ends its job: what came first may be the success
        if self._nodes.outcome is not None:
            return self._succeeded(self._nodes.outcome)
        if failures:
            decision = self._decide(failures)
            if not isinstance(decision, Restart):
                return decision
            self._restart(decision, failures)
        return None

    def _feed(self) -> bool:
        """Lets the feed that is still to be written be so when all roles have their slots.

        Returns whether it starves: executors may be lost later, and the roles keep theirs.
        """
        self._has_slots |= len(self._nodes.members) == len(self.lives)
        if self._has_slots:
            self._feeds.begin()
        self._feeds.check()
        now = time.monotonic()
        if not self._feeds.is_writing:
            self._fed = now
        elif now > self._looked + _SLOTS_EVERY_SECS:
            self._looked = now
            if preflight.has_free_slot(self._spark, self._plan.spec):
                self._fed = now
        return now > self._fed + self._plan.spec.start_timeout_secs

    def _await_evaluation(self, outcome: Mapping[str, Any]) -> None:
        """Blocks until the evaluator has done the last checkpoint, or failed, or is too slow."""
        spec = self._plan.spec
        if not spec.evaluator:
            return
        secs = spec.hang_secs or _EVALUATION_SECS
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline:
            done = self._plan.lake.evaluations()["evaluations"]
            if done and done[-1]["step"] >= outcome["checkpoints"]["step"]:
                return
            newest = f"evaluator-0.{self.lives[Task(EVALUATOR, 0)]}"
            if newest in self._watcher.look().failures:
                break
            self._changed.wait(0.5)
            self._changed.clear()
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
        """A restart that does not wait takes along those that do."""
        chosen = [task for task in self.lives if decision.includes(task.role, task.index)]
        due = time.monotonic() + decision.pause_secs
        self._detector.restarted(chosen, due)
        pause = f" in {decision.pause_secs:g} s" if decision.pause_secs else ""
        self._display.line(f"restarting {', '.join(map(str, chosen))}{pause}")
        self._order_due = (due, root_cause(failures).kind is FailureKind.HANG)
        self._order_when_due()

    def _order_when_due(self) -> None:
        if self._order_due is not None and time.monotonic() >= self._order_due[0]:
            self._order_lives(self._order_due[1])

    def _show(self) -> None:
        """Tells the display which roles have come up since, and how far the training is."""
        if self._nodes.progress is None:
            for name in sorted(self._nodes.ready.keys() - self._up):
                self._up.add(name)
                member = self._nodes.members.get(name, {})
                self._display.line(f"{name} is up on {member.get('host')}")
        else:
            self._note_start()
            self._display.progress(self._nodes.progress)

    def _note_start(self) -> None:
        if self._train_begun is None:
            self.start_secs = time.monotonic() - self._begun
            if self._nodes.progress is not None:
                self._train_begun = time.monotonic()

    def _failures(self) -> list[Failure]:
        """What has failed and has not been dealt with."""
        self._look()
        self._jobs.look()
        return self._detector.failures(
            self._nodes,
            dict(self._jobs.errors),
            self._registry.is_settled,
            time.monotonic(),
            time.time(),
        )

    def _raise_what_is_missing(self) -> None:
        self._watcher.refresh()
        self._look()
        before = ""
        if self._history:  # alone it would not say what became of the executors
            cause = self._history[-1].cause
            before = f"; this is after {cause.task} on {cause.host} failed: {cause.headline}"
        raise StartTimeout(
            f"not all roles came up within {self._plan.spec.start_timeout_secs:g} s:"
            f" {self._detector.not_up(self._nodes)};"
            f" {preflight.describe_slots(self._spark, self._plan.spec)}; raise"
            f" --start-timeout-secs, or free slots on the cluster{before}"
        )

    def _end(self, hung: bool) -> None:
        """Ends every supervisor, and the jobs that do not end by themselves."""
        self._watcher.end()
        stop = keys.stop(self._plan.run_id, self._plan.attempt)
        if self._registry.connected_secs():  # else Spark ends them, below
            with contextlib.suppress(RegistryError):
                self._registry.put(stop, "hang" if hung else True)
        self._jobs.end()
