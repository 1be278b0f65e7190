"""From a DataFrame to tensors: python benchmarks/feed.py [--quick]

20M rows (2M with --quick) of 13 numeric columns, made by Spark's range, all in one run: Spark's own
mapInArrow into a function that only counts; tfos's feed and its first epoch, later epochs in order
and shuffled; tensors and arrays that are in memory already; and three other ways: a
queue of rows through a manager process, Parquet and pyarrow.dataset, TFRecord files and tf.data's
parser. The reader's memory is printed for each epoch.
"""

from __future__ import annotations

import argparse
import statistics

from submit import submit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2M rows")
    rows = 2_000_000 if parser.parse_args().quick else 20_000_000
    args = ["--rows", str(rows), "--alternatives"]
    result = submit(["--strategy", "single"], "benchmarks/apps/feed.py", args)
    found = result["metrics"]
    feed_secs = result["seconds"]["etl"] - found["pre_train_secs"]
    no_op, first = found["no_op_rows_per_sec"], rows / (feed_secs + found["in_order"][0])
    memory = rows / statistics.median(found["in_memory_secs"])
    print(f"{rows:,} rows of 13 columns, rows/s:")
    print(f"  mapInArrow that only counts             {no_op:12,.0f}")
    print(f"  tfos, DataFrame to tensors, first epoch {first:12,.0f}  {first / no_op:6.2f} of it")
    print(f"    of which writing the feed             {rows / feed_secs:12,.0f}")
    print(f"  tensors in memory, in batches           {memory:12,.0f}")
    for name in ("in_order", "shuffled"):
        rate = rows / statistics.median(found[name][1:])
        print(f"  tfos, a later epoch, {name.replace('_', ' '):8s}           {rate:12,.0f}"
              f"  {rate / memory:6.2f} of it")  # fmt: skip
    arrays = found["array_rows"] / statistics.median(found["arrays_secs"])
    print(f"  arrays, shuffled as Keras's fit does it {arrays:12,.0f}"
          f"  tfos is {rate / arrays:6.1f}x")  # fmt: skip
    write, read = found["parquet_secs"]
    other = {
        "Parquet, written and read": rows / (write + read),
        "rows through a manager's queue": found["queue_rows_per_sec"],
    }
    made, parsed = found["records_rows_per_sec"]
    other["TFRecord files, written and read"] = 1 / (1 / made + 1 / parsed)
    for name, rate in other.items():
        print(f"  {name:38s}  {rate:12,.0f}  tfos is {first / rate:6.1f}x")
    print(f"  TFRecord files, a later epoch           {parsed:12,.0f}")
    print(f"resident memory after each epoch, MiB: {found['rss_mib']}")


if __name__ == "__main__":
    main()
