"""The evaluator beside a store: it has the rows of each checkpoint in a store of its own."""

from __future__ import annotations

import functools

from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.single.backend import Single, store_in_process
from tfos.strategies.train import train
from tfos.tables.stored import keep_in_store
from tfos.training.single import AllInStore


class Evaluating(Single):
    def run(self, host: Host) -> Trained:
        keep_in_store()  # as in the chief, whose snapshots are to fit
        return train(host, AllInStore(functools.partial(store_in_process, host)))
