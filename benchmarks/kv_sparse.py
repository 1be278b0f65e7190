"""Sparse logistic regression beside Vowpal Wabbit: python benchmarks/kv_sparse.py [--quick]

Rows of 40 features of 100,000,000 possible ones, of which the r-th comes with a probability in
proportion to 1/r; the first million say the label. examples/sparse_lr learns them under kv with one
worker and one server, in one pass in batches of 256, from Parquet that Spark reads; Vowpal Wabbit
(`pip install vowpalwabbit`), in one process, learns the same rows with the same FTRL-proximal, one
at a time, from its text format, and again from its cache, which needs no parsing. Loss is the mean
log-loss of rows before they are learned from. Ours counts from the first row that the worker reads,
when the feed is there; what Spark takes to write it is told beside it. Theirs is the whole process.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from submit import submit

FEATURES, KEYS, SAYING = 40, 100_000_000, 1_000_000
ALPHA, L1 = 0.1, 0.1
_PART_ROWS = 100_000


def write(rows: int, parquet: Path, text: Path) -> None:
    """The same rows for both; text is for Vowpal Wabbit."""
    random = np.random.default_rng(7)
    says = random.normal(0, 0.5, SAYING + 1)
    says[0] = 0.0
    parquet.mkdir()
    with open(text, "w") as lines:
        for begin in range(0, rows, _PART_ROWS):
            count = min(_PART_ROWS, rows - begin)
            keys = np.exp(random.random((count, FEATURES)) * np.log(KEYS)).astype(np.int64)
            scores = says[np.where(keys <= SAYING, keys, 0)].sum(axis=1) - 1
            labels = random.random(count) < 1 / (1 + np.exp(-scores))
            ends = np.arange(0, keys.size + 1, FEATURES, dtype=np.int32)
            columns = {
                "keys": pa.ListArray.from_arrays(ends, keys.ravel()),
                "values": pa.ListArray.from_arrays(ends, np.ones(keys.size, np.float32)),
                "y": labels.astype(np.float32),
            }
            pq.write_table(pa.table(columns), parquet / f"part-{begin:09d}.parquet")
            for label, row in zip(labels.tolist(), keys.tolist(), strict=True):
                lines.write(f"{1 if label else -1} | {' '.join(map(str, row))}\n")


def ours(parquet: Path) -> tuple[float, float, str]:
    """Rows a second, loss, and more words."""
    result = submit(
        ["--master", "local[3]", "--strategy", "kv", "--num-workers", "1", "--num-ps", "1",
         "--checkpoint-secs", "1000"],
        "examples/sparse_lr/app.py",
        ["--train", str(parquet), "--test", str(next(parquet.glob("*.parquet"))), "--epochs", "1",
         "--batch-size", "256", "--alpha", str(ALPHA), "--l1", str(L1)],
    )  # fmt: skip
    metrics, etl = result["metrics"], result["seconds"]["etl"]
    words = f"{metrics['features']:,} features; the feed took {etl:.1f} s"
    return metrics["rows_per_sec"][0], metrics["losses"][0], words


def theirs(rows: int, text: Path, *cache: str) -> tuple[float, float]:
    command = [
        sys.executable, "-m", "vowpalwabbit", "-d", str(text), "--loss_function", "logistic",
        "--ftrl", "--ftrl_alpha", str(ALPHA), "--ftrl_beta", "1", "--l1", str(L1), "-b", "27",
        *cache,
    ]  # fmt: skip
    begun = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True)
    secs = time.monotonic() - begun
    found = re.search(r"average loss = ([\d.]+)", ended.stdout + ended.stderr)
    assert found is not None, ended.stderr
    return rows / secs, float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows")
    parser.add_argument("--rows", type=int, default=2_000_000)
    options = parser.parse_args()
    rows = 50_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as directory:
        parquet, text = Path(directory, "rows.parquet"), Path(directory, "rows.txt")
        write(rows, parquet, text)
        print(f"{rows:,} rows x {FEATURES} features of {KEYS:,}; rows/s, log-loss:", flush=True)
        rate, loss, words = ours(parquet)
        print(f"  tfos, 1 worker, 1 server   {rate:12,.0f} {loss:8.4f}  {words}", flush=True)
        if find_spec("vowpalwabbit") is None:
            print("  Vowpal Wabbit is not here: pip install vowpalwabbit")
            return
        cache = ("--cache_file", f"{directory}/rows.cache")
        for name, more in (("from text", ()), ("makes a cache", (*cache, "-k")), ("cache", cache)):
            rate, loss = theirs(rows, text, *more)
            print(f"  Vowpal Wabbit, {name:13s} {rate:12,.0f} {loss:8.4f}", flush=True)


if __name__ == "__main__":
    main()
