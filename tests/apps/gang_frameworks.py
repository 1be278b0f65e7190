"""Real frameworks in a gang: each process sums what the others have, in every step, for ever.

The state is two numbers: how many steps were made, and the sum of all ids that were seen. All ranks
have the same, as they would have the same weights; and what is seen follows from the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tfos

ROWS, BATCH = 1003, 10


def torch_sum(ctx: Any) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=ctx.timeout)  # RANK, WORLD_SIZE, MASTER_*

    def total(array: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(array.copy())
        dist.all_reduce(tensor)
        return tensor.numpy()

    return total


def jax_sum(ctx: Any) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(ctx.master, ctx.world_size, ctx.rank)
    from jax.experimental.multihost_utils import process_allgather

    return lambda array: np.asarray(process_allgather(array)).sum(0)


def xgboost_sum(ctx: Any) -> Callable[[np.ndarray], np.ndarray]:
    from xgboost import collective

    collective.init(**ctx.rabit())
    assert (collective.get_rank(), collective.get_world_size()) == (ctx.rank, ctx.world_size)
    return lambda array: collective.allreduce(array, collective.Op.SUM)


def horovod_sum(ctx: Any) -> Callable[[np.ndarray], np.ndarray]:
    import horovod.tensorflow as hvd

    hvd.init()
    assert (hvd.rank(), hvd.size()) == (ctx.rank, ctx.world_size)
    return lambda array: hvd.allreduce(array, op=hvd.Sum).numpy()


def mpi_sum(ctx: Any) -> Callable[[np.ndarray], np.ndarray]:
    from mpi4py import MPI  # which calls MPI_Init()

    world = MPI.COMM_WORLD
    assert (world.rank, world.size) == (ctx.rank, ctx.world_size)

    def total(array: np.ndarray) -> np.ndarray:
        found = np.empty_like(array)
        world.Allreduce(array, found)
        return found

    return total


SUMS = {
    "torch": torch_sum, "jax": jax_sum, "xgboost": xgboost_sum, "horovod": horovod_sum,
    "mpi": mpi_sum,
}  # fmt: skip


class GangFrameworks(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--framework", choices=sorted(SUMS), default="jax")
        parser.add_argument("--until", help="a file; the epoch in which it appears is the last one")
        parser.add_argument("--epochs", type=int, default=10_000)
        parser.add_argument("--step-secs", type=float, default=0.02)

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).toDF("id")

    def train(self, ctx):
        args = self.args
        total = SUMS[args.framework](ctx)
        newest = ctx.checkpoint.newest()
        seen = np.zeros(2, np.int64)
        if newest is not None:
            seen = np.array(json.loads((newest / "seen.json").read_text()))
        train = ctx.dataset("train", BATCH, "id")
        is_over, step = False, ctx.checkpoint.step
        while not is_over and train.epoch < args.epochs:
            for ids in train.numpy():
                seen = seen + total(np.array([len(ids), ids.sum()], np.int64))
                step += 1
                time.sleep(args.step_secs)
                if ctx.checkpoint.due() or step % 7 == 0:
                    with tempfile.TemporaryDirectory() as local:
                        Path(local, "seen.json").write_text(json.dumps(seen.tolist()))
                        ctx.checkpoint.save_dir(local, step)
            ends = ctx.rank == 0 and bool(args.until) and os.path.exists(args.until)
            is_over = bool(total(np.array([ends, 0], np.int64))[0])
        return {"epochs": train.epoch, "seen": seen, "begun": ctx.checkpoint.step}
