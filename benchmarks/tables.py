"""Tables on several parameter servers, and their memory: python benchmarks/tables.py [--quick]

Trains a factorization machine over two tables of 8,000,000 x 16 (1,000,000 with --quick) with
tfos.layers.Embedding and tfos.optimizers.Adagrad, whose slots are as large as the tables, with 1, 2
and 4 servers and one worker on this machine, and prints the most resident memory that each process
has had, also while the last checkpoint was saved; and the same with tables of 1,000 rows, for what
TensorFlow takes by itself. Fails when a server holds much more than its share.
"""

from __future__ import annotations

import argparse

from submit import submit

WIDTH, TABLES, VALUE_BYTES = 16, 2, 4
_ROOM_MIB = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000,000 rows in a table")
    rows = 1_000_000 if parser.parse_args().quick else 8_000_000
    size = TABLES * 2 * rows * WIDTH * VALUE_BYTES >> 20
    print(f"{TABLES} tables of {rows:,} x {WIDTH} and their slots: {size:,} MiB; peak memory, MiB:")
    empty = 0
    for servers, of_rows in ((1, 1000), (1, rows), (2, rows), (4, rows)):
        args = ["--table-rows", str(of_rows), "--width", str(WIDTH)]
        args += ["--rows", "400000", "--epochs", "3"]
        options = ["--strategy", "ps", "--num-workers", "1", "--num-ps", str(servers)]
        options += ["--checkpoint-secs", "3600"]
        memory = submit(options, "benchmarks/apps/fm.py", args)["metrics"]["memory_mib"]
        of_servers = [memory[f"ps-{number}"] for number in range(servers)]
        share = size // servers
        what = "tables of 1,000 rows" if of_rows != rows else f"{share:,} of it on each"
        print(
            f"  {servers} servers, {what:22s} {', '.join(f'{each:,}' for each in of_servers)}",
            end="",
        )
        print(f"; worker {memory['worker-0']:,}, chief {memory['chief-0']:,}")
        if of_rows != rows:
            empty = of_servers[0]
        elif max(of_servers) > empty + 1.5 * share + _ROOM_MIB:
            raise SystemExit(f"a server has more than its share of {share:,} MiB")


if __name__ == "__main__":
    main()
