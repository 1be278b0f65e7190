"""Stands in for MXNet: a KVStore("dist_sync") over sockets, by the variables of ps-lite.

As there, importing it in the scheduler and in a server serves, until all workers have ended.
"""

import os
import pickle
import socket
import struct
import sys
import threading
import time

ROOT = os.environ["DMLC_PS_ROOT_URI"], int(os.environ["DMLC_PS_ROOT_PORT"])
WORKERS, SERVERS = int(os.environ["DMLC_NUM_WORKER"]), int(os.environ["DMLC_NUM_SERVER"])


def _send(connection, value):
    data = pickle.dumps(value)
    connection.sendall(struct.pack("!I", len(data)) + data)


def _receive(connection):
    def exactly(count):
        data = connection.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise ConnectionError("the other end is gone")
        return data

    return pickle.loads(exactly(*struct.unpack("!I", exactly(4))))


def _connect(place):
    while True:
        try:
            return socket.create_connection(place)
        except ConnectionRefusedError:
            time.sleep(0.02)


def _schedule():
    """Tells all where the servers are, and each worker its rank."""
    with socket.create_server(ROOT) as server:
        nodes = [server.accept()[0] for _ in range(WORKERS + SERVERS)]
    told = [(node, _receive(node)) for node in nodes]
    places = [place for _, place in told if place is not None]
    for rank, node in enumerate(node for node, place in told if place is None):
        _send(node, (rank, places))
    for node in nodes:
        node.recv(1)


class _Server:
    def __init__(self):
        self._merged, self._values, self._counts = {}, {}, {}
        self._change = threading.Condition()

    def serve(self):
        with socket.create_server((ROOT[0], 0)) as server:
            root = _connect(ROOT)
            _send(root, server.getsockname())
            threads = [
                threading.Thread(target=self._answer, args=(server.accept()[0],))
                for _ in range(WORKERS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _answer(self, connection):
        """A push is answered with the sum of all workers' when all have pushed."""
        pushed = 0
        while True:
            try:
                key, value = _receive(connection)
            except ConnectionError:
                return
            pushed += 1
            with self._change:
                self._merged[key] = self._merged.get(key, 0) + value
                self._counts[key] = self._counts.get(key, 0) + 1
                if self._counts[key] == pushed * WORKERS:
                    self._values[key, pushed] = self._merged.pop(key)
                    self._change.notify_all()
                self._change.wait_for(lambda: (key, pushed) in self._values)  # noqa: B023
                found = self._values[key, pushed]
                self._values.pop((key, pushed - 1), None)
            _send(connection, found)


class _KVStore:
    num_workers = WORKERS

    def __init__(self):
        self._root = _connect(ROOT)
        _send(self._root, None)
        self.rank, places = _receive(self._root)
        self._servers = [_connect(place) for place in places]

    def pushpull(self, key, value, out):
        server = self._servers[key % SERVERS]
        _send(server, (key, value))
        out[:] = _receive(server)


class kv:  # noqa: N801
    @staticmethod
    def create(name):
        assert name == "dist_sync"
        return _KVStore()


if os.environ["DMLC_ROLE"] != "worker":
    _schedule() if os.environ["DMLC_ROLE"] == "scheduler" else _Server().serve()
    sys.exit()
