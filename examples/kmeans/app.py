"""K-means (Lloyd 1982) on the key-value store, without Keras: bin/pl_submit --strategy kv FILE.

Each worker adds the points of its batches to the sums of their nearest centres; after an epoch the
chief moves the centres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tfos


class KMeans(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: Any) -> None:
        parser.add_argument("--rows", type=int, default=20_000)
        parser.add_argument("--clusters", type=int, default=4)
        parser.add_argument("--epochs", type=int, default=8)

    def pre_train(self, spark: Any) -> Any:
        """Points around the corners of a polygon."""
        angle = f"2 * pi() * (id % {self.args.clusters}) / {self.args.clusters}"
        x, y = (
            f"cast(5 * {f}({angle}) + randn({n}) as float)" for n, f in enumerate(("cos", "sin"))
        )
        return spark.range(self.args.rows).selectExpr(f"array({x}, {y}) as point")

    def train(self, ctx: Any) -> dict[str, Any]:
        count, keys = self.args.clusters, np.arange(self.args.clusters)
        centres = ctx.kv.table("centres", 2)
        sums = ctx.kv.table("sums", 3)  # x, y, and how many points
        dataset = ctx.dataset("train", 500, "point")
        if ctx.is_chief:
            centres.put(keys, np.array([[np.cos(1 + 2 * k), np.sin(1 + 2 * k)] for k in keys]))

        def step(points: np.ndarray) -> float:
            far = ((points[:, None] - centres.pull(keys)) ** 2).sum(axis=2)
            ones = np.ones((len(points), 1), np.float32)
            sums.add(far.argmin(axis=1), np.concatenate([points, ones], axis=1))
            return float(far.min(axis=1).mean())

        losses = []
        for epoch in range(self.args.epochs):
            losses.append(ctx.run_epoch(step, dataset, epoch))
            if ctx.is_chief:
                total = sums.pull(keys)
                moved = total[:, :2] / np.maximum(total[:, 2:], 1)
                centres.add(keys, np.where(total[:, 2:] > 0, moved - centres.pull(keys), 0))
                sums.add(keys, -total)
        return {"losses": losses, "centres": centres.pull(np.arange(count))}
