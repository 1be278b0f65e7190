"""Frameworks fed by tfos beside Spark's own ways to them: python benchmarks/frameworks.py

Trains a perceptron with PyTorch's DistributedDataParallel, in tfos's gang and by TorchDistributor,
whose processes read Parquet that Spark has written for them; and boosted trees with XGBoost, in a
gang and by xgboost.spark. All have the same DataFrame, in one session, and two workers. Prints rows
per second in the training loop of PyTorch, and the seconds from DataFrame to model of both, with
the ratios. What is not installed beside tfos is left out: torch, xgboost and scikit-learn.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WORKERS, WIDTH, BATCH = 2, 20, 1024
NAMES = [f"x{i}" for i in range(WIDTH)]
TREES = {"max_depth": 6, "learning_rate": 0.1, "n_estimators": 50, "max_bin": 256}


def trained(batches: Callable[[int], Iterator[Any]], epochs: int) -> float:
    """Trains in each of the processes, which have met; returns the seconds of its epochs."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    model, loss_of = DistributedDataParallel(net), torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    begun = time.monotonic()
    for epoch in range(epochs):
        for features, label in batches(epoch):
            optimizer.zero_grad()
            loss_of(model(features).squeeze(1), label).backward()
            optimizer.step()
    return time.monotonic() - begun


def torch_in_gang(frame: DataFrame, epochs: int) -> float:
    def train(ctx: Any) -> dict[str, float]:
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=ctx.timeout)
        dataset = ctx.dataset("train", BATCH, features=NAMES, label="label")

        def batches(epoch: int) -> Iterator[Any]:
            for features, label in dataset.torch():
                yield torch.stack([features[name] for name in NAMES], 1), label

        return {"loop": trained(batches, epochs)}

    return in_gang(train, frame)


def in_gang(train: Callable[[Any], Any], frame: DataFrame) -> float:
    import tfos

    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as lake:
        result = tfos.run(train, frame, strategy="gang", num_workers=WORKERS, lake=lake)
    return float(result.metrics.get("loop", 0.0))


def torch_by_distributor(frame: DataFrame, epochs: int) -> float:
    from pyspark.ml.torch.distributor import TorchDistributor

    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as directory:
        frame.write.parquet(f"{directory}/rows")

        def train() -> float:
            import pyarrow.parquet as pq
            import torch
            import torch.distributed as dist

            dist.init_process_group("gloo")
            rank = dist.get_rank()
            # rows as equal in number as tfos has them: all would wait for who has a batch more
            table = pq.read_table(f"{directory}/rows")
            share = table.num_rows // WORKERS
            mine = table.slice(rank * share, share)
            columns = [torch.from_numpy(mine[name].to_numpy().copy()) for name in NAMES]
            features, label = torch.stack(columns, 1), torch.from_numpy(mine["label"].to_numpy())

            def batches(epoch: int) -> Iterator[Any]:
                order = torch.from_numpy(np.random.default_rng(epoch).permutation(share))
                for at in range(0, share, BATCH):
                    chosen = order[at : at + BATCH]
                    yield features[chosen], label[chosen]

            return trained(batches, epochs)

        return float(TorchDistributor(WORKERS, local_mode=False, use_gpu=False).run(train))


def xgboost_in_gang(frame: DataFrame, epochs: int) -> float:
    def train(ctx: Any) -> None:
        import xgboost as xgb

        dataset = ctx.dataset("train", None, features=NAMES, label="label").in_order()
        ((features, label),) = dataset.numpy()
        with xgb.collective.CommunicatorContext(**ctx.rabit()):
            rows = xgb.QuantileDMatrix(np.column_stack([*features.values()]), label)
            parameters = {name: value for name, value in TREES.items() if name != "n_estimators"}
            parameters |= {"objective": "binary:logistic", "nthread": 1}
            xgb.train(parameters, rows, TREES["n_estimators"])

    return in_gang(train, frame)


def xgboost_by_spark(frame: DataFrame, epochs: int) -> float:
    from xgboost.spark import SparkXGBClassifier

    SparkXGBClassifier(features_col=NAMES, label_col="label", num_workers=WORKERS, **TREES).fit(
        frame
    )
    return 0.0


PAIRS = {
    "PyTorch DDP": (["torch"], {"tfos": torch_in_gang, "TorchDistributor": torch_by_distributor}),
    "XGBoost": (
        ["xgboost", "sklearn"], {"tfos": xgboost_in_gang, "xgboost.spark": xgboost_by_spark}
    ),
}  # fmt: skip


def main() -> None:
    from pyspark.sql import SparkSession

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    spark = SparkSession.builder.master("local[4]").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as directory:
        columns = [f"float(randn({i})) as {name}" for i, name in enumerate(NAMES)]
        made = spark.range(0, args.rows, 1, 4).selectExpr(*columns)
        made.selectExpr("*", "float(x0 + x1 * x2 > 0) as label").write.parquet(f"{directory}/rows")
        for name, (needed, ways) in PAIRS.items():
            absent = [each for each in needed if importlib.util.find_spec(each) is None]
            if absent:
                print(f"{name}: left out, as {' and '.join(absent)} is not installed")
                continue
            found = {}
            for way, train in ways.items():
                begun = time.monotonic()
                loop = train(spark.read.parquet(f"{directory}/rows"), args.epochs)
                found[way] = time.monotonic() - begun, loop
                rate = f", {args.rows * args.epochs / loop:,.0f} rows/s in the loop" if loop else ""
                print(f"{name}, {way}: {found[way][0]:.1f} s from DataFrame to model{rate}")
            (ours, our_loop), (theirs, their_loop) = found.values()
            in_loop = f"; {their_loop / our_loop:.2f} of the rows/s in the loop" if our_loop else ""
            print(f"{name}: tfos takes {ours / theirs:.2f} of the time{in_loop}")
    spark.stop()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
