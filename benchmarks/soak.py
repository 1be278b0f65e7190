"""A feed larger than the memory: python benchmarks/soak.py [--quick]

The feed of benchmarks/feed.py with 1.2 times the bytes of this machine's memory (2 GiB with
--quick), for which the disk needs room, read for three epochs in order and three shuffled. Prints
the rate and the reader's resident memory for each epoch.
"""

from __future__ import annotations

import argparse

import psutil
from submit import submit

_ROW_BYTES = 13 * 8
_TIMEOUT_SECS = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 GiB")
    memory = psutil.virtual_memory().total
    size = 2 << 30 if parser.parse_args().quick else int(1.2 * memory)
    rows = size // _ROW_BYTES
    args = ["--rows", str(rows), "--epochs", "3"]
    result = submit(["--strategy", "single"], "benchmarks/apps/feed.py", args, _TIMEOUT_SECS)
    found = result["metrics"]
    print(f"feed of {size / 2**30:.1f} GiB, memory of {memory / 2**30:.1f} GiB: {rows:,} rows")
    print(f"  written at     {rows / result['seconds']['etl']:12,.0f} rows/s")
    epochs = [("in order", secs) for secs in found["in_order"]]
    epochs += [("shuffled", secs) for secs in found["shuffled"]]
    for (order, secs), resident in zip(epochs, found["rss_mib"], strict=True):
        print(f"  read, {order} {rows / secs:12,.0f} rows/s, resident {resident:,} MiB")


if __name__ == "__main__":
    main()
