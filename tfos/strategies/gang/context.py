"""GangContext: what train(ctx) is given in each process of a gang."""

from __future__ import annotations

import datetime
import json
import numbers
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfos.errors import UsageError
from tfos.fault.checkpoint.files import FileCheckpoints
from tfos.feeding.arrival import Arrival
from tfos.feeding.schema import Manifest
from tfos.feeding.share_dataset import Given, Positions, ShareDataset
from tfos.runtime.host import Host
from tfos.strategies.gang.world import World
from tfos.training.outputs import Outputs

_PROGRESS_SECS = 0.5
# of state.json: how far the feeds are
_POSITIONS = "positions"
# of TrainContext, and what is to be used here
_INSTEAD = {
    **dict.fromkeys(
        ("fit", "evaluate", "predict", "run_epoch", "mean", "strategy", "coordinator"),
        "train with your framework's own means, on ctx.dataset(...).numpy() or .torch(), or use"
        " --strategy multi-worker for TensorFlow",
    ),
    "export": "write the model's files below ctx.output_dir",
}


class _NotInAGang(UsageError, AttributeError):
    """For hasattr(), too, there is no such thing."""


class GangContext:
    """The run, as train(ctx) sees it in a process of a gang. Used from train()'s thread alone.

    rank, world_size: this process, of so many; 0 is the chief. local_rank, local_size: the same
    among those of its machine.
    role, index: "chief", 0 of rank 0, "worker", I of rank I + 1. num_workers: the world size.
    is_chief: whether this process checkpoints and reports; elsewhere these do nothing.
    attempt: 1, and one more for each time the roles were launched again.
    master: "host:port" at which rank 0 may listen, once, and nobody does yet: MASTER_ADDR and
    MASTER_PORT. For jax.distributed.initialize(ctx.master, ctx.world_size, ctx.rank).
    timeout: --hang-secs, for operations that wait for other processes; None where it is 0.
    params, log_dir, output_dir: as in tfos.context.TrainContext; files are those of rank 0.
    checkpoint: save_dir() and newest(), see tfos.fault.checkpoint.files.FileCheckpoints.
    """

    def __init__(self, host: Host, world: World) -> None:
        """Fetches the newest checkpoint, and files in output_dir; may take long."""
        place = world.place
        self.rank, self.world_size = place.rank, place.size
        self.local_rank, self.local_size = place.local_rank, place.local_size
        self.role, self.index = host.task.role, host.task.index
        self.num_workers = place.size
        self.is_chief = host.is_chief
        self.attempt = host.attempt
        self.params = host.spec.params
        self.master = world.master
        secs = host.spec.hang_secs
        self.timeout = datetime.timedelta(seconds=secs) if secs else None
        self._world = world
        self._take_sigterm_back, self._has_begun = host.take_sigterm_back, False
        self._reader, self._ledger, self._reports = host.reader(), host.ledger, host.reports
        self._positions = Positions()
        self._outputs = Outputs(host.lake, host.scratch, self.is_chief)
        self.log_dir, self.output_dir = self._outputs.events, self._outputs.output
        self.checkpoint = FileCheckpoints(
            host.store,
            host.scratch,
            host.spec.checkpoint_secs,
            self._state,
            self._restore,
            host.reports.quiet,
            lambda: self._saved(host.store.stats),
        )
        host.reports.saved(host.store.stats)
        self.reported: dict[str, Any] = {}
        # when the rate of an epoch began to be measured, and the rows before that; when it was told
        self._since, self._since_rows, self._told = time.monotonic(), 0, 0.0
        self._trackers: list[Any] = []

    def dataset(
        self,
        name: str,
        batch_size: int | None,
        features: Sequence[str] | str | None = None,
        label: str | Sequence[str] | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> ShareDataset:
        """This process's share of the feed `name`, in batches: (dict of features, label[, weight]).

        Iterate over its numpy(), torch() or arrow(); each time is one epoch. See ShareDataset.
        batch_size: rows per batch of one process; None for all of the share in one batch.
        features, label, weight, shuffle, seed: as in tfos.context.TrainContext.dataset().
        Raises LakeError for an unknown feed, FeedError for an unknown column.
        """

        def look() -> Manifest:
            return self._reader.arrived(name)

        return ShareDataset(
            self._reader, Arrival(look(), look, self._reports.quiet), batch_size, features, label,
            weight, shuffle, seed, rank=self.rank, size=self.world_size, positions=self._positions,
            on_given=self._given,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        """Raises UsageError, with what to do instead, for what other strategies have."""
        if name not in _INSTEAD:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise _NotInAGang(f"--strategy gang has no ctx.{name}: {_INSTEAD[name]}")

    def report(self, **metrics: Any) -> None:
        """Adds JSON-able values to the metrics of the run's result; of rank 0's they are there.

        Numbers are shown with the progress. It counts as progress, also without values: a loop that
        takes longer than --hang-secs without a batch of ctx.dataset() calls it now and then.
        """
        self.reported.update(metrics)
        self._reports.moved()

    def rabit(self) -> dict[str, Any]:
        """What xgboost.collective.CommunicatorContext() takes in this process. Needs xgboost.

        A tracker is begun in rank 0 at each call, which all processes make; ranks are as here.
        """
        from xgboost.tracker import RabitTracker

        key, tracker = f"rabit-{len(self._trackers)}", None
        if self.rank == 0:
            place = self._world.place
            tracker = RabitTracker(n_workers=place.size, host_ip=place.host, sortby="task")
            tracker.start()
            self._world.tell(key, json.dumps(tracker.worker_args()))
        self._trackers.append(tracker)
        found = {**json.loads(self._world.wait(key)), "dmlc_task_id": f"{self.rank:09d}"}  # as text
        if self.timeout is not None:
            found["dmlc_timeout"] = round(self.timeout.total_seconds())
        return found

    def close(self) -> None:
        """Takes what was written to the lake."""
        self._outputs.upload()

    def _given(self, given: Given) -> None:
        if not self._has_begun and threading.current_thread() is threading.main_thread():
            self._has_begun = True
            self._take_sigterm_back()  # from JAX, whose distributed runtime has taken it by now
        if not given.trains:
            self._ledger.read(given.feed, given.epoch, given.rows)
            self._reports.moved()
            return
        self._ledger.add(given.feed, given.epoch, given.rows, given.due)
        now = time.monotonic()
        if given.done == given.rows:  # the first of its epoch
            self._since, self._since_rows = now, given.done
        if now - self._told < _PROGRESS_SECS and given.done < given.due:
            return
        self._told, secs = now, max(now - self._since, 0.1)
        self._reports.progress(
            {
                "phase": "train",
                "epoch": given.epoch + 1,
                "epochs": 0,
                "rows_done": given.done,
                "rows": given.due,
                "rows_per_sec": round((given.done - self._since_rows) / secs),
                "metrics": {
                    name: float(value)
                    for name, value in self.reported.items()
                    if isinstance(value, numbers.Real)
                },
            }
        )  # fmt: skip

    def _state(self) -> tuple[Mapping[str, Any], Any]:
        return {_POSITIONS: self._positions.as_json()}, self._ledger.as_json()

    def _restore(self, sections: Mapping[str, Any], ledger: Any) -> None:
        self._positions.restore(sections[_POSITIONS])
        self._ledger.restore(ledger)

    def _saved(self, stats: Mapping[str, float]) -> None:
        self._reports.saved(stats)
        with self._reports.quiet():
            self._outputs.upload()
