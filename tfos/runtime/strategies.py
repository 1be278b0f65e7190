"""How a piece of training gets to the process that runs it: one Runner per strategy.

The training loop cuts an epoch into units and submits a tf.function for each; a Runner decides
where it runs. Under `ps` any idle worker takes it. A unit names the rows that it trains on, so
when a worker dies the coordinator gives the same rows to another one. Under `multi-worker` every
worker runs the same loop, and its share of every unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from tfos.errors import UsageError
from tfos.training.runner import Pending, Runner

# the heartbeat timeout of processes that never count as hung
_NEVER_SECS = 365 * 24 * 3600


class _Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def fetch(self) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), self._value)


class _LocalRunner:
    """Functions run here, when they are submitted."""

    coordinator = None
    parallelism = 1

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Done(function(*args))


class _Alone:
    """No other process is in step with this one."""

    replicas, replica = 1, 0

    def gather(self, value: int) -> list[int]:
        return [value]


class SingleRunner(_Alone, _LocalRunner):
    """Everything in this process."""

    def __init__(self) -> None:
        self.strategy = tf.distribute.get_strategy()


class MultiWorkerRunner(_LocalRunner):
    """This process is one of several that train in step; all are here when it is made.

    Gradients are summed by ring allreduce over gRPC, or by NCCL where the processes have GPUs.
    """

    def __init__(
        self, cluster: Mapping[str, list[str]], role: str, index: int, hang_secs: float
    ) -> None:
        _leave_silence_to_supervisors(cluster, hang_secs)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(dict(cluster)), task_type=role, task_id=index, rpc_layer="grpc"
        )
        implementations = tf.distribute.experimental.CommunicationImplementation
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy(
            resolver,
            tf.distribute.experimental.CommunicationOptions(
                implementation=implementations.NCCL if has_gpu else implementations.RING
            ),
        )
        self.replicas = 1 + len(cluster.get("worker", []))
        self.replica = 0 if role == "chief" else 1 + index
        if self.strategy.num_replicas_in_sync != self.replicas:
            raise UsageError(
                f"{role} {index} has {self.strategy.extended.worker_devices} of"
                f" {self.strategy.num_replicas_in_sync} devices in {self.replicas} processes: give"
                " each worker one GPU, e.g. spark.task.resource.gpu.amount 1 or"
                " CUDA_VISIBLE_DEVICES"
            )

        self._gather = tf.function(lambda value: self.strategy.run(_all, args=(value,)))

    def gather(self, value: int) -> list[int]:
        return [int(each) for each in self._gather(tf.constant([value], tf.int64)).numpy()]


def _leave_silence_to_supervisors(cluster: Mapping[str, list[str]], hang_secs: float) -> None:
    """A process counts as hung after --hang-secs, not after TensorFlow's 10 s without heartbeats.

    MultiWorkerMirroredStrategy takes a coordination service that is configured already.
    """
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:chief/replica:0/task:0",
        heartbeat_timeout_in_ms=int(1000 * (hang_secs or _NEVER_SECS)),
    )
    jobs = context.context().coordination_service.coordinated_job_list
    for job, addresses in cluster.items():
        jobs.add(name=job, num_tasks=len(addresses))


def _all(value: Any) -> Any:
    return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)


class _Scheduled:
    """A result that the coordinator has on a worker, until it is fetched.

    The worker may die in between. The coordinator then has it made again, but fetch() has raised
    already if it came before the coordinator's own.
    """

    def __init__(self, coordinator: Any, value: Any) -> None:
        self._coordinator = coordinator
        self._value = value

    def fetch(self) -> Any:
        with contextlib.suppress(tf.errors.OpError):
            return self._value.fetch()
        self._coordinator.join()  # until all is made; or raises the first error
        return self._value.fetch()


class ParameterServerRunner(_Alone):
    """Variables on parameter servers, functions on workers, asynchronously; this is the chief."""

    def __init__(self, cluster: Mapping[str, list[str]]) -> None:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(dict(cluster)), task_type="chief", task_id=0, rpc_layer="grpc"
        )
        self.strategy = tf.distribute.ParameterServerStrategy(resolver)
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        self.parallelism = len(cluster["worker"])

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Scheduled(self.coordinator, self.coordinator.schedule(function, args=args))


def make_runner(
    strategy: str, cluster: Mapping[str, list[str]], role: str, index: int, hang_secs: float
) -> Runner:
    """The runner of process `index` of `role`."""
    if strategy == "ps":
        return ParameterServerRunner(cluster)
    if strategy == "multi-worker":
        return MultiWorkerRunner(cluster, role, index, hang_secs)
    return SingleRunner()


def check_agreement(runner: Runner, value: int) -> None:
    """Waits for the processes in step, and raises AbortedError unless all have this value."""
    values = runner.gather(value)
    if set(values) != {value}:
        raise tf.errors.AbortedError(
            None, None, f"the workers have read checkpoints of different steps: {values}"
        )
