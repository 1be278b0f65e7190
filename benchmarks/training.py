"""Training with parameter servers: python benchmarks/training.py [--quick] [--scaling]

A factorization machine over two tables of 2,000,000 x 16, through ctx.fit, with 2 workers and one
server here: tfos.layers and tfos.optimizers against the layer and Adam of Keras, by turns;
then what a step is made of, and how the rate grows with workers, servers and batch size.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from submit import submit

APP = "benchmarks/apps/fm.py"
BATCH, BATCHES = "4096", "512,4096,32768"


def run(workers: int, servers: int, args: list[str]) -> dict[str, Any]:
    options = ["--strategy", "ps", "--num-workers", str(workers), "--num-ps", str(servers)]
    return dict(submit([*options, "--checkpoint-secs", "3600"], APP, args)["metrics"])


def compare(turns: int, rows: int, table: list[str]) -> None:
    """Keras's Adam makes a pass over the whole table in each step: it gets few rows."""
    ways = {
        "tfos Adagrad": ["--rows", str(rows)],
        "tfos Adam": ["--rows", str(rows), "--optimizer", "Adam"],
        "Keras Adam": ["--rows", "100000", "--layers", "keras", "--optimizer", "Adam"],
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, args in ways.items():
            found = run(2, 1, [*args, *table])["fits"][BATCH]
            rates[name].append(found["rows_per_sec"])
    medians = {name: statistics.median(each) for name, each in rates.items()}
    print(f"batches of {BATCH}, 2 workers, 1 server, medians of {turns} turns:")
    for name, rate in medians.items():
        print(f"  {name:14s} {rate:12,.0f} rows/s  {rate / medians['Keras Adam']:7.1f}x")


def parts(rows: int, table: list[str]) -> None:
    taken = run(2, 1, ["--rows", str(rows), "--parts", *table])["step_ms"]
    print(f"milliseconds of one of 2 workers for a step of {BATCH} rows:")
    before = 0.0
    names = ("read the rows", "look up", "compute gradients", "update the tables")
    for name, upto in zip(names, taken.values(), strict=True):
        print(f"  {name:20s} {upto - before:6.2f}")
        before = upto
    print(f"  {'all':20s} {before:6.2f}")


def scaling(rows: int, table: list[str]) -> None:
    print("workers  servers  batch        rows/s  chief CPU  chief's us per step")
    for servers in (1, 2):
        for workers in (1, 2, 4):
            fits = run(workers, servers, ["--rows", str(rows), "--batch-sizes", BATCHES, *table])
            for batch, found in fits["fits"].items():
                print(
                    f"{workers:7d}  {servers:7d}  {batch:>5s}  {found['rows_per_sec']:12,.0f}"
                    f"  {found['chief_cpu']:8.0%}  {found['chief_us_per_step']:9.0f}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller tables, fewer rows, one turn")
    parser.add_argument("--scaling", action="store_true", help="only the table of how it grows")
    arguments = parser.parse_args()
    rows = 400_000 if arguments.quick else 4_000_000
    table = ["--table-rows", "200000"] if arguments.quick else []
    if not arguments.scaling:
        compare(1 if arguments.quick else 3, rows, table)
        parts(rows, table)
    scaling(rows, table)


if __name__ == "__main__":
    main()
