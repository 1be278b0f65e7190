"""The chief coordinates; workers and parameter servers are TensorFlow's servers."""

from __future__ import annotations

import tensorflow as tf

from tfos.fault.failures import FailureKind
from tfos.feeding.reads import serve_reads
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.spec.roles import CHIEF
from tfos.strategies.errors import failure_kind


class ParameterServers:
    def preload(self, role: str) -> None:
        if role == CHIEF:  # servers need neither Keras nor what trains
            import tfos.strategies.ps.coordinator  # noqa: F401
            from tfos.strategies.train import warm_up

            warm_up()

    def run(self, host: Host) -> Trained:
        if host.is_chief:
            from tfos.strategies.ps.coordinator import ParameterServerRunner
            from tfos.strategies.train import train

            return train(host, ParameterServerRunner(host.addresses))
        if host.task.role == "ps":
            host.ask_to_save_at_sigterm()
        else:
            workers = len(host.addresses["worker"])
            serve_reads(host.reader(turns=workers), host.task.index, workers)
        server = tf.distribute.Server(
            tf.train.ClusterSpec(dict(host.addresses)),
            job_name=host.task.role,
            task_index=host.task.index,
            protocol="grpc",
        )
        host.ready()
        server.join()
        raise AssertionError("TensorFlow's server does not end")

    def failure_kind(self, error: BaseException) -> FailureKind:
        return failure_kind(error)
