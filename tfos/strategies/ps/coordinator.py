"""The chief's side: functions are scheduled on workers, variables are on parameter servers.

Any idle worker takes a unit that is submitted. A unit names the rows that it trains on, so when a
worker dies the coordinator gives the same rows to another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfos.training.runner import Alone, Pending


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


class ParameterServerRunner(Alone):
    """Variables on parameter servers, functions on workers, asynchronously; this is the chief."""

    is_asynchronous = True
    io_device: str | None = "/job:chief/replica:0/task:0/device:CPU:0"

    def __init__(self, cluster: Mapping[str, list[str]]) -> None:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(dict(cluster)), task_type="chief", task_id=0, rpc_layer="grpc"
        )
        self.strategy = tf.distribute.ParameterServerStrategy(resolver)
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        self.parallelism = len(cluster["worker"])

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Scheduled(self.coordinator, self.coordinator.schedule(function, args=args))

    def owns(self, variable: Any) -> bool:
        return "/job:ps" in str(variable.device)
