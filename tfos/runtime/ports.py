"""The address and the port of a task, which its supervisor holds."""

from __future__ import annotations

import socket


def local_address(peer: tuple[str, int]) -> str:
    """The address of this machine on the way to `peer`. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return str(probe.getsockname()[0])


def hold_port(host: str) -> socket.socket:
    """A free port on `host`, bound but not listening, that another process may bind as well.

    TensorFlow's server binds it with TF_GRPC_REUSE_PORT=true; while we hold it no stranger can.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, 0))
    return held
