"""Servers of tfos.kv, a chief that hands out units, and workers that make them."""

from __future__ import annotations

import sys
import threading
from typing import cast

from tfos.errors import StoreError
from tfos.fault.failures import FailureKind
from tfos.kv.server import Server
from tfos.kv.store import Store
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.kv.places import SWITCH_SECS, listen
from tfos.strategies.kv.topology import KeyValueStore as Topology


class KeyValueStore:
    def preload(self, role: str) -> None:
        if role != "ps":  # servers have no TensorFlow
            import tfos.training.stored.runners  # noqa: F401
            from tfos.strategies.train import warm_up

            warm_up()

    def run(self, host: Host) -> Trained:
        topology = cast(Topology, host.spec.topology)
        if host.task.role == "ps":
            return _serve(host, topology)
        from tfos.strategies.kv.training import lead, work

        return lead(host, topology) if host.is_chief else work(host, topology)

    def failure_kind(self, error: BaseException) -> FailureKind:
        if isinstance(error, StoreError):
            return FailureKind.PEER
        if "tensorflow" not in sys.modules:
            return FailureKind.EXCEPTION
        from tfos.strategies.errors import failure_kind

        return failure_kind(error)


def _serve(host: Host, topology: Topology) -> Trained:
    sys.setswitchinterval(SWITCH_SECS)
    host.ask_to_save_at_sigterm()
    store = Store(topology.most_ahead)
    listener = listen(host.addresses["ps"][host.task.index])
    server = Server(
        listener, host.secret, store, str(host.task), storage=host.lake, copies_itself=True
    )
    server.start()
    host.ready()
    threading.Event().wait()
    raise AssertionError("a server of the store does not end")
