"""The port that a supervisor holds for its TF processes."""

from __future__ import annotations

import socket

import pytest

from tfos.runtime.supervisor import hold_port, local_address


class TestPort:
    def test_is_held_for_a_server_that_shares_it_and_no_other(self):
        with hold_port("127.0.0.1") as held:
            address = held.getsockname()
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                server.bind(address)
                server.listen()
                socket.create_connection(address, timeout=5).close()
            with socket.socket() as stranger, pytest.raises(OSError):
                stranger.bind(address)

    def test_address_on_the_way_to_the_registry(self):
        assert local_address(("127.0.0.1", 2181)) == "127.0.0.1"
