"""Where the processes of a run find each other."""

from __future__ import annotations

import socket

from tfos.kv.client import Client
from tfos.runtime.host import Host

# a server may write for long before it answers that a snapshot is there
# threads that come back from a kernel or a socket are not to wait for long
SWITCH_SECS = 0.0005
_SNAPSHOT_SECS = 24 * 3600.0


def listen(address: str) -> socket.socket:
    """On this task's address, whose port its supervisor holds."""
    host, _, port = address.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(128)
    return listener


def servers(host: Host) -> dict[str, tuple[str, int]]:
    """Where each server of the store is, by its name on the ring."""
    found = {}
    for number, address in enumerate(host.addresses["ps"]):
        name, _, port = address.rpartition(":")
        found[f"ps-{number}"] = (name, int(port))
    return found


def client_of(host: Host, stall_secs: float = 60.0) -> Client:
    return Client(servers(host), host.secret, stall_secs=stall_secs)


def snapshot_client_of(host: Host) -> Client:
    return client_of(host, _SNAPSHOT_SECS)
