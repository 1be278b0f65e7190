"""A gang of plain sockets and NumPy: it counts how often each row was trained on, in all ranks.

Each step adds up the ranks' counts through rank 0, which listens on MASTER_PORT as torch does. So
after a run the counts say what the ledger should say.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tfos

ROWS, BATCH = 1003, 10


class Sum:
    """Sums arrays of all ranks. Raises what sockets raise when another process is gone."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        at = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.peers = []
        if self.rank == 0:
            with socket.socket() as server:  # without SO_REUSEPORT
                server.bind(at)
                server.listen()
                self.peers = [server.accept()[0] for _ in range(self.size - 1)]
        while self.rank and not self.peers:
            try:
                self.peers = [socket.create_connection(at)]
            except ConnectionRefusedError:
                time.sleep(0.02)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        if self.rank:
            self.peers[0].sendall(array.tobytes())
            return self._received(self.peers[0], array)
        total = array + sum(self._received(peer, array) for peer in self.peers)
        for peer in self.peers:
            peer.sendall(total.tobytes())
        return total

    def _received(self, peer: socket.socket, like: np.ndarray) -> np.ndarray:
        data = bytearray()
        while len(data) < like.nbytes:
            got = peer.recv(like.nbytes - len(data))
            if not got:  # what gloo says, in a class that says nothing
                raise RuntimeError("Connection closed by peer")
            data += got
        return np.frombuffer(data, like.dtype).reshape(like.shape)


def meet_as_horovod() -> list[str]:
    """What Horovod's C++ side does in its rendezvous; returns what each rank has left there."""
    env = {name[8:]: value for name, value in os.environ.items() if name.startswith("HOROVOD_")}

    def ask(method: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        place = env["GLOO_RENDEZVOUS_ADDR"], int(env["GLOO_RENDEZVOUS_PORT"])
        connection = http.client.HTTPConnection(*place, timeout=10)
        connection.request(method, f"/global/{key}", body)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    ask("PUT", env["RANK"], f"{env['RANK']}/{env['SIZE']} {env['CONTROLLER']}".encode())
    found = []
    for rank in range(int(env["SIZE"])):
        while (answer := ask("GET", str(rank)))[0] == 404:
            time.sleep(0.01)
        found.append(answer[1].decode())
    ask("DELETE", env["RANK"])
    return found


class GangCounts(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--until", help="a file; the epoch in which it appears is the last one")
        parser.add_argument("--epochs", type=int, default=10_000)
        parser.add_argument("--step-secs", type=float, default=0.02)
        parser.add_argument("--save-every", type=int, default=7, help="steps")
        parser.add_argument("--fail", type=int, default=-1, help="the rank that raises")
        parser.add_argument("--linger", type=float, default=0.0, help="how long rank 1 ends later")

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).toDF("id")

    def train(self, ctx):
        args = self.args
        met = meet_as_horovod()
        total = Sum()
        counts = np.zeros(ROWS, np.int64)
        newest = ctx.checkpoint.newest()
        if newest is not None:
            counts = np.load(newest / "counts.npy")
        train = ctx.dataset("train", BATCH, "id")
        is_over, step, begun = False, ctx.checkpoint.step, ctx.checkpoint.step
        while not is_over and train.epoch < args.epochs:
            for ids in train.numpy():
                if ctx.rank == args.fail:
                    raise ValueError("no such row")
                ours = np.zeros(ROWS, np.int64)
                np.add.at(ours, ids, 1)
                counts = counts + total(ours)
                step += 1
                time.sleep(args.step_secs)
                if ctx.checkpoint.due() or step % args.save_every == 0:
                    with tempfile.TemporaryDirectory() as local:
                        np.save(Path(local, "counts.npy"), counts)
                        ctx.checkpoint.save_dir(local, step)
                ctx.report(step=step)
            ends = ctx.rank == 0 and bool(args.until) and os.path.exists(args.until)
            is_over = bool(total(np.array([ends], np.int64))[0])
        told = total(np.array([ctx.rank, "tensorflow" in sys.modules], np.int64))
        if ctx.rank == 1 and args.linger:
            time.sleep(args.linger)
            Path(ctx.output_dir, "lingered").write_text("")
        return {
            "epochs": train.epoch,
            "low": counts.min(),
            "high": counts.max(),
            "ranks": told[0],
            "with_tensorflow": told[1],
            "met": met,
            "begun": begun,
            "place": [ctx.rank, ctx.world_size, ctx.local_rank, ctx.local_size],
            "modules": sorted({"tensorflow", "keras", "jax", "torch"} & sys.modules.keys()),
        }
