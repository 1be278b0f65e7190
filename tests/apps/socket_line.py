"""Trains a line under the strategy of tests/strategy, until a file is there."""

from __future__ import annotations

import argparse
import os

import tfos

ROWS = 1000


class Line(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--until", help="a file that ends the training after the epoch")
        parser.add_argument("--fail", action="store_true")

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).selectExpr(
            "id / 500.0d - 1 AS x", "3 * (id / 500.0d - 1) + 2 AS y"
        )

    def train(self, ctx):
        if self.args.fail:
            raise ValueError("no such line")
        return ctx.fit(lambda done: done > 0 and os.path.exists(self.args.until))
