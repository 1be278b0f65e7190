"""Tables on several parameter servers, and their memory: python benchmarks/tables.py [--quick]

Trains a factorization machine over two tables of 8,000,000 x 16 (1,000,000 with --quick) with
tfos.layers.Embedding and tfos.optimizers.Adagrad, whose slots are as large as the tables, with 1, 2
and 4 servers and one worker on this machine, and prints the resident memory of each process.
"""

from __future__ import annotations

import argparse

from submit import submit

WIDTH, TABLES, VALUE_BYTES = 16, 2, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000,000 rows in a table")
    rows = 1_000_000 if parser.parse_args().quick else 8_000_000
    size = TABLES * 2 * rows * WIDTH * VALUE_BYTES >> 20
    print(f"{TABLES} tables of {rows:,} x {WIDTH} and their slots: {size:,} MiB; resident, MiB:")
    args = ["--table-rows", str(rows), "--width", str(WIDTH), "--rows", "400000", "--epochs", "3"]
    for servers in (1, 2, 4):
        options = ["--strategy", "ps", "--num-workers", "1", "--num-ps", str(servers)]
        options += ["--checkpoint-secs", "3600"]
        memory = submit(options, "benchmarks/apps/fm.py", args)["metrics"]["memory_mib"]
        each = ", ".join(f"{memory[f'ps-{number}']:,}" for number in range(servers))
        print(f"  {servers} servers, {size // servers:6,} of it each: {each}", end="")
        print(f"; worker {memory['worker-0']:,}, chief {memory['chief-0']:,}")


if __name__ == "__main__":
    main()
