"""A loop on the store: each row adds one to its key; the chief dies once in between."""

import os

import numpy as np

import tfos

ROWS, EPOCHS = 1000, 4


class Loop(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        return spark.range(ROWS)

    def train(self, ctx):
        counts = ctx.kv.table("counts", 1)
        dataset = ctx.dataset("train", 50, "id")
        state = ctx.checkpoint.restore() or {"epoch": 0}

        def step(ids):
            counts.add(ids, np.ones((len(ids), 1)))

        for epoch in range(state["epoch"], EPOCHS):
            ctx.run_epoch(step, dataset, epoch)
            if ctx.is_chief and epoch == 2 and not state["epoch"]:
                ctx.checkpoint.wait()
                os._exit(7)
            ctx.checkpoint.save((epoch + 1) * ROWS // 50, {"epoch": epoch + 1})
        seen = counts.pull(np.arange(ROWS))
        return {"begun": state["epoch"], "low": seen.min(), "high": seen.max()}
