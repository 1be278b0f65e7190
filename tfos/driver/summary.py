"""What is told of a run when it has ended: its Result, and what that is made of."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Mapping
from typing import Any

from tfos.driver.attempt import Attempt
from tfos.errors import LakeError, TFOSError
from tfos.fault.failures import Failure, FailureKind, error_message
from tfos.fault.policy import Incident
from tfos.feeding.ledger import accounting
from tfos.feeding.schema import Manifest
from tfos.lake.run_directory import RunDirectory
from tfos.runtime.roles import all_tasks
from tfos.spec.job import JobSpec
from tfos.spec.result import INTERRUPTED, JVM_GONE, Result, finite, sum_stats

# pl_submit's own start, seconds since the epoch: total counts from the command
STARTED_ENV = "TFOS_STARTED"


class Summary:
    """Filled in while the run goes on.

    failure: why it failed. outcome: the chief's. history: the incidents of all attempts.
    """

    def __init__(self) -> None:
        self._begun = float(os.environ.get(STARTED_ENV, time.time()))
        self._restarts: dict[str, int] = {}
        self._roles: dict[str, dict[str, Any]] = {}
        self._checkpoints: list[Mapping[str, Any]] = []
        self._ledger: Mapping[str, Any] | None = None
        self._has_evaluator = False
        self.run_id = ""
        self.seconds = {"etl": 0.0, "start": 0.0, "train": 0.0, "total": 0.0}
        self.failure: Failure | None = None
        self.outcome: Mapping[str, Any] = {}
        self.manifests: dict[str, Manifest] = {}
        self.attempts = 0
        self.history: list[Incident] = []

    def begin(self, run_id: str, spec: JobSpec) -> None:
        """It is known what is to be run."""
        self.run_id = run_id
        self._restarts = {task.role: 0 for task in all_tasks(spec)}
        self._has_evaluator = bool(spec.evaluator)

    def note(self, attempt: Attempt) -> None:
        """Takes over what an attempt that has ended leaves to tell."""
        self.seconds["start"] += attempt.start_secs
        self.seconds["train"] += attempt.train_secs
        self._checkpoints += attempt.checkpoints.values()
        for task, life in attempt.lives.items():
            self._restarts[task.role] += life - 1
            role = self._roles.setdefault(str(task), {"restarts": 0})
            role["restarts"] += life - 1
            role.update({k: attempt.roles.get(str(task), {}).get(k) for k in ("host", "pid")})

    def failed(self, error: BaseException, killed_by: str = "") -> None:
        """Records an error of the driver, unless a role's failure or an earlier one is known."""
        if self.failure is not None:
            return
        if isinstance(error, KeyboardInterrupt):
            message, trace = INTERRUPTED, ""
            if killed_by:
                message = f"cancelled by {killed_by}"
        elif isinstance(error, TFOSError):
            message, trace = str(error), ""
        else:
            message = error_message(error)
            trace = "".join(traceback.format_exception(error))
        self.failure = Failure.of_driver(message, trace)

    def lost_jvm(self) -> None:
        """The driver's JVM is gone: an error of the driver, or a job that ended, says no more."""
        if self.failure is None or self.failure.kind is FailureKind.SPARK:
            self.failure = Failure.of_driver(JVM_GONE)

    def result(self, lake: RunDirectory | None) -> Result:
        """lake: the run directory, if it is ours."""
        failure = self.failure
        ledger = self._trained(lake)
        self.seconds["total"] = time.time() - self._begun
        return Result(
            run_id=self.run_id or None,
            status="succeeded" if failure is None else "failed",
            error=None if failure is None else failure.as_error(),
            attempts=self.attempts,
            restarts=self._restarts,
            feeds={
                name: {
                    "rows": manifest.rows,
                    "shards": len(manifest.shards),
                    **accounting(ledger.get(name, {}), manifest.rows),
                }
                for name, manifest in self.manifests.items()
            },
            failures=[f.as_json() for i in self.history for f in i.failures],
            roles=self._roles,
            checkpoints=sum_stats(self._checkpoints),
            metrics=finite(self.outcome.get("metrics", {})),
            evaluations=finite(self._evaluations(lake)),
            model=self.outcome.get("model"),
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
        )

    def _evaluations(self, lake: RunDirectory | None) -> Any:
        if lake is None or not self._has_evaluator:
            return []
        with contextlib.suppress(LakeError):  # a lake that fails is told of elsewhere
            return lake.evaluations()["evaluations"]
        return []

    def _trained(self, lake: RunDirectory | None) -> Mapping[str, Any]:
        """The ledger: of the outcome; of a run that failed, what its newest checkpoint holds."""
        if self._ledger is None:
            self._ledger = self.outcome.get("feeds", {})
            if not self.outcome and self.attempts and lake is not None:
                with contextlib.suppress(LakeError):  # it may be what the run failed for
                    newest = lake.newest_checkpoint()
                    if newest:
                        self._ledger = lake.checkpoint_state(newest)["shared"] or {}
        return self._ledger
