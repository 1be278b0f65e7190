"""Everything in one process. Also what evaluates the checkpoints of other strategies."""

from __future__ import annotations

import tensorflow as tf

from tfos.fault.failures import FailureKind
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.errors import failure_kind
from tfos.strategies.train import train, warm_up
from tfos.training.runner import Alone, LocalRunner


class SingleRunner(Alone, LocalRunner):
    def __init__(self) -> None:
        self.strategy = tf.distribute.get_strategy()


class Single:
    def preload(self, role: str) -> None:
        warm_up()

    def run(self, host: Host) -> Trained:
        return train(host, SingleRunner())

    def failure_kind(self, error: BaseException) -> FailureKind:
        return failure_kind(error)
