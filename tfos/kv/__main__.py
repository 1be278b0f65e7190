"""One server of the store: TFOS_KV_SECRET=... python -m tfos.kv [--host HOST] [--port PORT].

Prints its port when it serves. It ends with SIGTERM or Ctrl-C, or when its standard input, where
that is a pipe, is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import stat
import sys
import threading

from tfos.kv.server import Server
from tfos.kv.store import Store
from tfos.lake.storage import Storage, absolute


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tfos.kv", description="A server of the store")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--name", default="ps-0", help="on the ring")
    parser.add_argument("--staleness", type=int, help="of clocks, in steps; default: any")
    parser.add_argument("--lake", help="where snapshots are: a path or URI; default: none")
    options = parser.parse_args()
    secret = os.environ.pop("TFOS_KV_SECRET", "")
    if not secret:
        parser.error("TFOS_KV_SECRET is not set: it keeps out who does not have it")
    # threads that come back from a kernel or a socket are not to wait for long
    sys.setswitchinterval(0.0005)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    listener = socket.create_server((options.host, options.port), backlog=128)
    storage = Storage(absolute(options.lake)) if options.lake else None
    server = Server(
        listener, secret.encode(), Store(options.staleness), options.name,
        storage=storage, copies_itself=True,
    )  # fmt: skip
    server.start()
    print(server.address[1], flush=True)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    ended.wait()
    server.close()


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    ended.set()


if __name__ == "__main__":
    main()
