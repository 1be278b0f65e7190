"""Sparse optimizers against Keras's: python benchmarks/optimizers.py [--quick]

One process trains an embedding table of 2,000,000 x 16 (200,000 with --quick) in batches of 4096
random ids, in a tf.function of one step. All optimizers run in turn, several times; the first turn
does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tfos import optimizers

WIDTH, BATCH = 16, 4096
BASELINE = "Keras Adam"
MAKE = {
    BASELINE: lambda: keras.optimizers.Adam(0.001),
    "Keras Adagrad": lambda: keras.optimizers.Adagrad(0.01),
    "Keras SGD": lambda: keras.optimizers.SGD(0.01),
    "SGD": lambda: optimizers.SGD(0.01),
    "SGD, momentum": lambda: optimizers.SGD(0.01, momentum=0.9),
    "Adagrad": lambda: optimizers.Adagrad(0.01),
    "Adam": lambda: optimizers.Adam(0.001),
    "FTRL": lambda: optimizers.FTRL(0.05, l1=0.001),
    "ProximalAdagrad": lambda: optimizers.ProximalAdagrad(0.01, l1=0.001),
    "GroupFTRL": lambda: optimizers.GroupFTRL(0.05, l21=0.001),
}


def make_step(optimizer: Any, rows: int) -> Any:
    table = keras.Variable(lambda shape, dtype: tf.zeros(shape, dtype), (rows, WIDTH))
    optimizer.build([table])

    @tf.function(input_signature=[tf.TensorSpec([BATCH], tf.int64)])
    def step(ids: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.reduce_sum(tf.gather(table.value, ids), 1) - 1) ** 2)
        optimizer.apply(tape.gradient(loss, [table.value]), [table])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller table, fewer turns")
    quick = parser.parse_args().quick
    rows, turns, secs = (200_000, 3, 0.3) if quick else (2_000_000, 5, 2.0)
    random = np.random.default_rng(0)
    batches = [tf.constant(random.integers(0, rows, BATCH)) for _ in range(16)]
    rates: dict[str, list[float]] = {name: [] for name in MAKE}
    for _ in range(turns + 1):
        for name, make in MAKE.items():
            step = make_step(make(), rows)
            step(batches[0])
            begun, steps = time.monotonic(), 0
            while time.monotonic() < begun + secs:
                step(batches[steps % len(batches)])
                steps += 1
            rates[name].append(steps * BATCH / (time.monotonic() - begun))
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
    print(f"table {rows:,} x {WIDTH}, batches of {BATCH} ids, medians of {turns} turns:")
    for name, rate in medians.items():
        print(f"  {name:16s} {rate:12,.0f} rows/s  {rate / medians[BASELINE]:7.1f}x")


if __name__ == "__main__":
    main()
