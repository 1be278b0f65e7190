"""How a piece of training gets to the process that runs it: one Runner per strategy.

The training loop cuts an epoch into units and submits a tf.function for each; a Runner decides
where it runs. Under `ps` any idle worker takes it. A unit names the rows that it trains on, so
when a worker dies the coordinator gives the same rows to another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfos.training.runner import Pending, Runner


class _Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def fetch(self) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), self._value)


class SingleRunner:
    """Everything in this process."""

    def __init__(self) -> None:
        self.strategy = tf.distribute.get_strategy()
        self.coordinator = None
        self.parallelism = 1

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Done(function(*args))

    def join(self) -> None:
        pass


class ParameterServerRunner:
    """Variables on parameter servers, functions on workers, asynchronously; this is the chief."""

    def __init__(self, cluster: Mapping[str, list[str]]) -> None:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(dict(cluster)), task_type="chief", task_id=0, rpc_layer="grpc"
        )
        self.strategy = tf.distribute.ParameterServerStrategy(resolver)
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        self.parallelism = len(cluster["worker"])

    def submit(self, function: Any, *args: Any) -> Pending:
        return self.coordinator.schedule(function, args=args)

    def join(self) -> None:
        self.coordinator.join()


def make_runner(strategy: str, cluster: Mapping[str, list[str]]) -> Runner:
    return ParameterServerRunner(cluster) if strategy == "ps" else SingleRunner()
