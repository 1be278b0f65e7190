"""One run's directory: every file name and format of it.

<lake>/<run-id>/
  spec.json                     the JobSpec
  registry.json                 the run's credential for ZooKeeper; for the owner's eyes only
  feed/<name>/<shard>.arrow     and manifest.json, written when the feed is complete; of one
                                that is read before, arrived.json has the columns, and
                                arrived-<number>-<count>.json the shards that came since
  driver.json                   the lease of the driver that lives; gone when the run is over
  cancel.json                   there while it is asked to end by who cannot reach its ZooKeeper
  generation.json               which chief may write checkpoints
  app.pkl                       the app after pre_train; the feeds are complete when all
                                manifests are there
  checkpoints/<step>-<attempt>.<life>/...   of the chief that saved it; COMMIT marker last
  evaluations.json              what the evaluator has found so far
  model/                        exported SavedModel, COMMIT marker last
  logs/<attempt>/<role>-<i>.log
  logs/driver.log               what Spark and TensorFlow said around the driver; in cluster mode
                                all that the driver wrote
  events/                       TensorBoard
  output/                       what train() and its callbacks write
  result.json                   written once, at the end, whatever the end
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfos.errors import LakeError
from tfos.lake.committed import CommittedStorage
from tfos.lake.storage import COMMIT, MARKER, Storage

MODEL = "model"
EVENTS = "events"
OUTPUT = "output"
DRIVER_LOG = "logs/driver.log"
# in a checkpoint: the progress that belongs to its weights
STATE = "state.json"
SPEC = "spec.json"
_REGISTRY = "registry.json"
_LEASE = "driver.json"
_CANCEL = "cancel.json"
_GENERATION = "generation.json"
_APP = "app.pkl"
_EVALUATIONS = "evaluations.json"
_RESULT = "result.json"
# files of which every run has one, from its begin to its end
_RUN_FILES = (SPEC, _REGISTRY, _RESULT)
_CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"(\d+)(?:-(\d+)\.(\d+))?")
_ARRIVAL = re.compile(r"arrived(-\d+-\d+)?\.json")
_LOG = re.compile(r"([a-z]+-\d+)\.log")


def checkpoint_path(name: str) -> str:
    return f"{_CHECKPOINTS}/{name}"


def checkpoint_name(step: int, writer: str = "") -> str:
    """writer: "<attempt>.<life>" of the chief that saves it.

    No two chiefs write into one directory, so one that was replaced can do no harm to the next.
    """
    return f"{step:012d}" + (f"-{writer}" if writer else "")


def checkpoint_order(name: str) -> tuple[int, int, int] | None:
    """The step, attempt and life in a checkpoint's name; None when it is no checkpoint's."""
    match = _CHECKPOINT.fullmatch(name)
    return match and (int(match[1]), int(match[2] or 0), int(match[3] or 0))


def feed_path(feed: str) -> str:
    return f"feed/{feed}"


def manifest_path(feed: str) -> str:
    return f"{feed_path(feed)}/manifest.json"


def arrived_path(feed: str) -> str:
    """Where a feed that can be read before its shards have come has its manifest, without them."""
    return f"{feed_path(feed)}/arrived.json"


def increment_path(feed: str, number: int, count: int) -> str:
    """Where the shards are that came next: those of `count` increments, from `number` on."""
    return f"{feed_path(feed)}/arrived-{number:06d}-{count}.json"


def is_arrival(file: str) -> bool:
    """Whether a file in a feed's directory says what has arrived of it."""
    return _ARRIVAL.fullmatch(file) is not None


def log_path(attempt: int, task: object) -> str:
    return f"logs/{attempt}/{task}.log"


@dataclass(frozen=True)
class AppRecord:
    """The app after pre_train().

    app: pickled, as train() gets it. state: pickled, the attributes that pre_train() set, for a
    driver whose app.py is newer. feeds: the names of all.
    """

    app: bytes
    state: bytes
    feeds: Sequence[str]


@dataclass(frozen=True)
class DriverLease:
    """What the driver of a run leaves of itself, again and again, while it lives.

    machine: where `pid` is a process's: of one boot of a host, and of its containers only this one;
        "" where that is not known. submission: as spec.json has it. token: of this driver and no
        other. beat: one more each time. application: of YARN's, where that starts the driver, and
        the next one if it is lost; else "".
    """

    host: str
    machine: str
    pid: int
    submission: str
    token: str
    beat: int
    application: str = ""


class RunDirectory(CommittedStorage):
    """The directory of run `run_id` in the lake at `url`. Picklable; thread-safe.

    Raises LakeError as Storage does. What a method reads is None where there is no such file.
    """

    def __init__(self, url: str, run_id: str) -> None:
        super().__init__(url, run_id)
        self.run_id = run_id

    def is_there(self) -> bool:
        """Whether a run is being checked here before its start, has begun, or has ended."""
        return self.has_begun() or self._marker() is not None

    def is_being_checked(self) -> bool:
        """Whether a run has not begun here, and its driver is at its checks, or has died there."""
        return not self.has_begun() and self._marker() is not None

    def checked_since(self) -> float | None:
        """When these checks began, as result_time()."""
        marker = self._marker()
        return None if marker is None else self.modified(marker)

    def has_begun(self) -> bool:
        """Whether a run is past its checks here, or has ended before them."""
        return any(self.exists(name) for name in _RUN_FILES)

    def _marker(self) -> str | None:
        return next((name for name in self.list("") if name.startswith(MARKER)), None)

    def _json(self, name: str) -> dict[str, Any] | None:
        return dict(self.read_json(name)) if self.exists(name) else None

    def spec(self) -> dict[str, Any] | None:
        """The JobSpec as JSON, with the run id and the name of its submission."""
        return self._json(SPEC)

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        self.write_json(SPEC, spec)

    def registry(self) -> dict[str, Any] | None:
        """Where the run's nodes in ZooKeeper are, and the credential for them."""
        return self._json(_REGISTRY)

    def write_registry(self, address: Mapping[str, Any]) -> None:
        self.write_json(_REGISTRY, address, is_secret=True)

    def lease(self) -> DriverLease | None:
        try:
            return DriverLease(**self.read_json(_LEASE))
        except LakeError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def write_lease(self, lease: DriverLease) -> None:
        self.write_json(_LEASE, vars(lease))

    def remove_lease(self) -> None:
        self.remove(_LEASE)

    def cancel_request(self) -> dict[str, Any] | None:
        """Who wants the run to end: {"by"}."""
        return self._json(_CANCEL)

    def write_cancel_request(self, request: Mapping[str, Any]) -> None:
        self.write_json(_CANCEL, request)

    def remove_cancel_request(self) -> None:
        self.remove(_CANCEL)

    def result(self) -> dict[str, Any] | None:
        return self._json(_RESULT)

    def write_result(self, result: Mapping[str, Any]) -> None:
        self.write_json(_RESULT, result)

    def remove_result(self) -> None:
        self.remove(_RESULT)

    @property
    def result_uri(self) -> str:
        return self.uri(_RESULT)

    def result_time(self) -> float | None:
        """When the run ended, seconds since the epoch, where that is easily known."""
        return self.modified(_RESULT)

    def generation(self) -> dict[str, int] | None:
        """Which chief may write checkpoints: {"attempt", "life"}, as the driver says."""
        return self._json(_GENERATION)

    def write_generation(self, attempt: int, life: int) -> None:
        self.write_json(_GENERATION, {"attempt": attempt, "life": life})

    def app(self) -> AppRecord | None:
        return AppRecord(**pickle.loads(self.read(_APP))) if self.exists(_APP) else None

    def write_app(self, record: AppRecord) -> None:
        self.write(_APP, pickle.dumps(vars(record)))

    def evaluations(self) -> dict[str, Any]:
        """What the evaluator has left: see tfos.training.evaluator."""
        return self._json(_EVALUATIONS) or {"evaluations": [], "stop": None}

    def write_evaluations(self, record: Mapping[str, Any]) -> None:
        self.write_json(_EVALUATIONS, record)

    def forget_training(self) -> None:
        """Removes what belongs to feeds that were not finished, and will come in another order.

        The chief that saved checkpoints may outlive its driver, and is not to save more.
        """
        generation = self.generation()
        if generation is not None:
            self.write_generation(generation["attempt"], 0)
        for path in (_CHECKPOINTS, _EVALUATIONS, _APP):
            self.remove(path)

    def checkpoints(self) -> list[str]:
        """The names of all checkpoints, committed or not, the newest last."""
        found = {name: checkpoint_order(name) for name in self.list(_CHECKPOINTS)}
        return sorted((n for n, order in found.items() if order), key=lambda n: found[n] or ())

    def newest_checkpoint(self) -> str | None:
        """The name of the newest committed checkpoint."""
        names = reversed(self.checkpoints())
        return next((n for n in names if self.exists(f"{checkpoint_path(n)}/{COMMIT}")), None)

    def checkpoint_time(self, name: str) -> float | None:
        """When a checkpoint was committed, as result_time()."""
        return self.modified(f"{checkpoint_path(name)}/{COMMIT}")

    def checkpoint_state(self, name: str) -> dict[str, Any]:
        return dict(self.read_json(f"{checkpoint_path(name)}/{STATE}"))

    def logged_attempts(self) -> list[int]:
        """The attempts that have logs."""
        return sorted(int(name) for name in self.list("logs") if name.isdigit())

    def logged_tasks(self, attempt: int) -> list[str]:
        """The tasks that have a log in an attempt: "worker-0"."""
        names = map(_LOG.fullmatch, self.list(f"logs/{attempt}"))
        return [name[1] for name in names if name]


def upload_of(run_id: str) -> str:
    """What pl_submit leaves beside the runs, for the pod of a driver to fetch: app.py, modules."""
    return f".submitted-{run_id}"


def run_ids(url: str) -> list[str]:
    """The runs in the lake at `url`."""
    return [name for name in Storage(url).list("") if not name.startswith(".")]
