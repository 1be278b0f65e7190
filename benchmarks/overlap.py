"""Training while the feed is made: python benchmarks/overlap.py [--quick]

An ETL whose 8 partitions take 6 s each, as when they wait for a storage, and a training of two
epochs, in one process, on four local slots: with --overlap off, where the ETL has all four slots
and the training begins after it, and on, where the ETL has three. Prints when the first steps were
made and when the run was over, in seconds from the command.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from submit import submit

APP = "tests/apps/counting.py"
ARGS = ["--rows", "80000", "--epochs", "2", "--etl-secs", "6", "--unit-secs", "0.002"]


def run(overlap: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="tfos-overlap-") as directory:
        timeline = Path(directory, "timeline")
        options = ["--strategy", "single", "--master", "local[4]", "--overlap", overlap]
        begun = time.time()
        result = submit(options, APP, [*ARGS, "--timeline", str(timeline)])
        first = float(timeline.read_text().split()[0])
    return first - begun, result["seconds"]["total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    turns = range(1 if parser.parse_args().quick else 3)
    taken: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    for _ in turns:
        for overlap, found in taken.items():
            found.append(run(overlap))
    print(f"seconds from the command, medians of {len(turns)}:   first steps   end")
    for overlap, found in taken.items():
        first, end = (statistics.median(each) for each in zip(*found, strict=True))
        print(f"  --overlap {overlap:3s}                          {first:11.1f}  {end:6.1f}")


if __name__ == "__main__":
    main()
