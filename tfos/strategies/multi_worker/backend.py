"""Processes that train in step: each runs train(), the same loop, and its share of every unit."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfos.compat.tensorflow import coordination_context
from tfos.errors import UsageError
from tfos.fault.failures import FailureKind
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.errors import failure_kind
from tfos.strategies.train import train
from tfos.training.runner import LocalRunner

_FAREWELL_SECS = 10.0
# the heartbeat timeout of processes that never count as hung
_NEVER_SECS = 365 * 24 * 3600


class MultiWorkerRunner(LocalRunner):
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

        self._gather = tf.function(
            lambda value: self.strategy.run(_all, args=(value,)), autograph=False
        )

    def gather(self, value: int) -> list[int]:
        return [int(each) for each in self._gather(tf.constant([value], tf.int64)).numpy()]

    def owns(self, variable: Any) -> bool:
        extended = self.strategy.extended
        return self.replicas == 1 or bool(extended.variable_created_in_scope(variable))


def _leave_silence_to_supervisors(cluster: Mapping[str, list[str]], hang_secs: float) -> None:
    """A process counts as hung after --hang-secs, not after TensorFlow's 10 s without heartbeats.

    MultiWorkerMirroredStrategy takes a coordination service that is configured already.
    """
    context = coordination_context()
    context.configure_coordination_service(
        service_type="standalone",
        service_leader="/job:chief/replica:0/task:0",
        heartbeat_timeout_in_ms=int(1000 * (hang_secs or _NEVER_SECS)),
    )
    jobs = context.coordination_service.coordinated_job_list
    for job, addresses in cluster.items():
        jobs.add(name=job, num_tasks=len(addresses))


def _all(value: Any) -> Any:
    return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)


class MultiWorker:
    def preload(self, role: str) -> None:
        """No warming up: processes in step can meet only before the first operation."""

    def run(self, host: Host) -> Trained:
        if not host.is_chief:
            host.ask_to_save_at_sigterm()
        task = host.task
        with host.meeting():
            runner = MultiWorkerRunner(host.addresses, task.role, task.index, host.spec.hang_secs)
        trained = train(host, runner)
        if not host.is_chief:
            # others may still read what the last operation has for them; the chief ends the run
            threading.Event().wait(_FAREWELL_SECS)
        return trained

    def failure_kind(self, error: BaseException) -> FailureKind:
        return failure_kind(error)
