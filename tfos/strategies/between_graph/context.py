"""BetweenGraphContext: what train(ctx) is given under --strategy between-graph."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfos.errors import UsageError
from tfos.feeding.arrival import Arrival
from tfos.feeding.dataset import FeedDataset
from tfos.lake.run_directory import MODEL
from tfos.runtime.host import Host
from tfos.spec.roles import EVALUATOR
from tfos.strategies.between_graph.export import export_saved_model
from tfos.strategies.between_graph.share import SharedDataset
from tfos.training.outputs import Outputs

# of TrainContext; they build on Keras 3 and on eager execution
_KERAS = (
    "fit", "evaluate", "predict", "run_epoch", "mean", "strategy", "coordinator", "checkpoint",
)  # fmt: skip


class BetweenGraphContext:
    """The run, as train(ctx) sees it in each process. Made by tfos; used from train()'s thread.

    role, index: "chief", "ps", "worker" or, with --evaluator, "evaluator", and its index. The chief
    is one of the workers, and initializes, saves and exports.
    num_workers: the chief and the others; num_ps: parameter servers.
    cluster_spec: of all of them but the evaluator; TF_CONFIG has the same.
    worker_device: of this process, for tf.compat.v1.train.replica_device_setter.
    session_config: for sessions of this process: they see the parameter servers and this process
    alone, so that a worker may die, and come back, beside the others.
    attempt, params, log_dir, output_dir: as TrainContext has them.
    """

    def __init__(self, host: Host) -> None:
        self.role, self.index = host.task.role, host.task.index
        self.is_chief = host.is_chief
        self.attempt = host.attempt
        self.params = host.spec.params
        self.num_workers = 1 + len(host.addresses.get("worker", []))
        self.num_ps = len(host.addresses["ps"])
        self.cluster_spec = tf.train.ClusterSpec(dict(host.addresses))
        self.worker_device = f"/job:{self.role}/task:{self.index}"
        self.reported: dict[str, Any] = {}
        self.model_uri: str | None = None
        self._host = host
        self._lake = host.lake
        self._outputs = Outputs(host.lake, host.scratch, self.is_chief)
        self.log_dir, self.output_dir = self._outputs.events, self._outputs.output

    @property
    def share(self) -> tuple[int, int]:
        """This process is number share[0] of the share[1] that divide the rows of a feed."""
        if self.role == EVALUATOR:
            return 0, 1
        return (0 if self.is_chief else 1 + self.index), self.num_workers

    @property
    def session_config(self) -> tf.compat.v1.ConfigProto:
        return tf.compat.v1.ConfigProto(device_filters=["/job:ps", self.worker_device])

    @property
    def model_dir(self) -> str:
        """A directory of the run that all processes see: for checkpoints of sessions, and
        Estimator's model_dir. It is <run>/output/model_dir; a run that goes on finds it as it was.

        Raises UsageError where the lake is no mounted directory.
        """
        if not self._lake.is_local:
            raise UsageError(
                f"ctx.model_dir: the lake {self._lake.url} is no directory, and TensorFlow's"
                " parameter servers write parts of checkpoints themselves: give --lake a directory"
                " that all machines mount"
            )
        path = Path(self.output_dir, "model_dir")
        path.mkdir(exist_ok=True)
        return str(path)

    @functools.cached_property
    def _server(self) -> tf.distribute.Server:
        return tf.distribute.Server(
            self.cluster_spec, job_name=self.role, task_index=self.index, protocol="grpc"
        )

    def server(self) -> tf.distribute.Server:
        """TensorFlow's server of this process; the same one at each call.

        `ctx.server().join()` is all that a parameter server does; `ctx.server().target` is what
        sessions connect to. Estimator starts a server itself, and wants no other.
        Raises UsageError in the evaluator, which is not in the cluster.
        """
        if self.role == EVALUATOR:
            raise UsageError(
                "ctx.server(): the evaluator is not in the cluster; it evaluates checkpoints in"
                " ctx.model_dir, in a session of its own"
            )
        return self._server

    def dataset(
        self,
        name: str,
        batch_size: int,
        features: Sequence[str] | str | None = None,
        label: str | Sequence[str] | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> SharedDataset:
        """The feed `name` as batches, as TrainContext.dataset() has it.

        `dataset(epochs=None)` makes the tf.data.Dataset of this process's share of the rows, for
        iterators of any kind; the dataset itself is an input_fn of Estimator. In the evaluator, and
        of `dataset.whole()`, it is all rows.
        """
        arrived = functools.partial(self._host.reader().arrived, name)
        arrival = Arrival(arrived(), arrived, self._host.reports.quiet)
        return SharedDataset(
            arrival, batch_size, features, label, weight, shuffle, seed, of=self.share
        )

    def export(self, saved_model: str, dataset: FeedDataset, signature: str = "") -> str:
        """Takes a SavedModel to <run>/model, for tfos.predict; returns its URI.

        saved_model: the directory of one, as Estimator.export_saved_model and
        tf.compat.v1.saved_model.simple_save write it; bytes, as the former returns it, will do.
        dataset: what the model was trained on: its inputs are the feature columns, by name.
        signature: which of the model's to use; when not given "serving_default" where the model has
        it, or "predict".
        Raises UsageError for a signature that has other inputs.
        """
        if not self.is_chief:
            return self._lake.uri(MODEL)
        with self._host.reports.quiet():
            self.model_uri = export_saved_model(
                saved_model.decode() if isinstance(saved_model, bytes) else saved_model,
                dataset.feature_columns,
                signature,
                self._lake,
                self._host.scratch,
                self._host.store.fence,
            )
        return self.model_uri

    def report(self, **metrics: Any) -> None:
        """Adds JSON-able values to the metrics of the run's result. It counts as progress."""
        self.reported.update(metrics)
        self._host.reports.moved()

    def close(self) -> None:
        """Waits until what was written into output_dir and log_dir is in the lake."""
        self._outputs.upload()

    def __getattr__(self, name: str) -> Any:
        if name in _KERAS:
            raise UsageError(
                f"ctx.{name}: --strategy between-graph runs sessions of TF1, or Estimator, in each"
                " process. For Keras models use --strategy ps, multi-worker or single, with"
                f" TensorFlow 2.16 or newer and Keras 3 (here is TensorFlow {tf.__version__})"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def config_of(host: Host) -> Mapping[str, Any]:
    """TF_CONFIG of this process, as a mapping."""
    task = {"type": host.task.role, "index": host.task.index}
    return {"cluster": dict(host.addresses), "task": task}
