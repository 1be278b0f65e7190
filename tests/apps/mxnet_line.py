"""Learns a line through MXNet's KVStore, until a file is there; see tests/strategy."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

import tfos

ROWS = 1000


class Line(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--until", help="a file that ends the training after the epoch")

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).selectExpr(
            "id / 500.0d - 1 AS x", "3 * (id / 500.0d - 1) + 2 AS y"
        )

    def train(self, ctx):
        import mxnet

        store = mxnet.kv.create("dist_sync")
        total, over = np.zeros(2), np.zeros(1)
        newest = ctx.checkpoint.newest()
        weights = np.zeros(2) if newest is None else np.load(newest / "weights.npy")
        train = ctx.dataset("train", 10, label="y")
        step = ctx.checkpoint.step
        while not over[0]:
            for features, y in train.numpy():
                error = weights[0] * features["x"] + weights[1] - y
                mine = 2 * np.array([np.mean(error * features["x"]), np.mean(error)])
                store.pushpull(0, mine, out=total)
                weights -= 0.05 * total / store.num_workers
                step += 1
                if ctx.checkpoint.due():
                    with tempfile.TemporaryDirectory() as local:
                        np.save(Path(local, "weights.npy"), weights)
                        ctx.checkpoint.save_dir(local, step)
            ends = ctx.is_chief and bool(self.args.until) and os.path.exists(self.args.until)
            store.pushpull(1, np.array([ends]), out=over)
        return {"epochs": train.epoch, "weights": weights, "begun": ctx.checkpoint.step}
