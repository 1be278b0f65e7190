"""A factorization machine under --strategy kv beside ps: python benchmarks/kv_fm.py [--quick]

benchmarks/apps/fm.py: two tables of 2M x 16, batches of 4,096, random ids, two workers and one
server, through ctx.fit. The first epoch of each run, in which graphs are made, is not timed.
"""

from __future__ import annotations

import argparse
import statistics

from submit import submit

OPTIONS = ["--master", "local[4]", "--num-workers", "2", "--num-ps", "1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn, few rows")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    if options.quick:
        options.turns, options.rows = 1, 200_000
    args = ["--rows", str(options.rows), "--epochs", str(options.epochs)]
    found: dict[str, list[dict[str, float]]] = {"ps": [], "kv": []}
    for turn in range(options.turns):
        for strategy, runs in found.items():
            result = submit(["--strategy", strategy, *OPTIONS], "benchmarks/apps/fm.py", args)
            runs.append(result["metrics"]["fits"]["4096"])
            rate = runs[-1]["rows_per_sec"]
            print(f"turn {turn + 1}, {strategy}: {rate:12,.0f} rows/s", flush=True)
    rates = {
        strategy: statistics.median(run["rows_per_sec"] for run in runs)
        for strategy, runs in found.items()
    }
    for strategy, runs in found.items():
        cpu = statistics.median(run["chief_cpu"] for run in runs)
        loss = statistics.median(run["loss"] for run in runs)
        rate, ratio = rates[strategy], rates[strategy] / rates["ps"]
        print(f"{strategy:4s} {rate:12,.0f} rows/s, {ratio:5.2f}x of ps; chief {cpu:.2f} cores;"
              f" loss {loss:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
