"""From the command to the first training steps: python benchmarks/startup.py [--quick]

Submits two tables of 200,000 x 16 and 400,000 rows with bin/pl_submit to four local slots, with
each strategy, and says when pre_train() begins, when train() begins (in between the feed is written
and the roles are launched), and when the first steps are done. The alternative is what people do by
hand: one spark-submit writes the rows to Parquet, and then a Python process of its own reads them,
and trains the same model with Keras. That has one process, no checks, no registry and nothing that
would recover it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from submit import ROOT, submit

ARGS = ["--model", "tables", "--batch-size", "8192", "--steps", "50", "--epochs", "2"]
STRATEGIES = {
    "single": [],
    "ps, 2 workers, 1 server": ["--num-workers", "2", "--num-ps", "1"],
    "multi-worker, 2 workers": ["--num-workers", "2"],
}
MASTER = "local[4]"
PHASES = ("pre_train()", "train()", "first steps")
_TIMEOUT_SECS = 300


def with_tfos(strategy: str) -> list[float]:
    begun = time.time()
    options = ["--master", MASTER, "--strategy", strategy.split(",")[0], *STRATEGIES[strategy]]
    metrics = submit(options, "benchmarks/apps/steps.py", ARGS)["metrics"]
    return [metrics[at] - begun for at in ("pre_train_at", "train_at", "first_steps_at")]


def by_hand() -> float:
    bin_dir, begun = Path(sys.executable).parent, time.time()
    with tempfile.TemporaryDirectory(prefix="tfos-by-hand-") as directory:
        for part in ("etl", "train"):
            script = str(ROOT / "benchmarks" / "apps" / "by_hand.py")
            start = ["spark-submit", "--master", MASTER] if part == "etl" else ["python"]
            ended = subprocess.run(
                [str(bin_dir / start[0]), *start[1:], script, part, directory],
                capture_output=True, text=True, timeout=_TIMEOUT_SECS,
                env={**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"},
            )  # fmt: skip
            if ended.returncode != 0:
                raise RuntimeError(f"{part} failed:\n{ended.stderr[-3000:]}")
    return float(ended.stdout.split()[-1]) - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    turns = range(1 if parser.parse_args().quick else 3)
    taken: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
    alternative = []
    for _ in turns:
        for strategy, found in taken.items():
            found.append(with_tfos(strategy))
        alternative.append(by_hand())
    secs = statistics.median(alternative)
    print(f"seconds from the command, medians of {len(turns)}:")
    print(f"{'':26s}{''.join(f'{phase:>13s}' for phase in PHASES)}")
    for strategy, found in taken.items():
        medians = [statistics.median(each) for each in zip(*found, strict=True)]
        print(f"  {strategy:24s}{''.join(f'{each:13.1f}' for each in medians)}", end="")
        print(f"  {medians[-1] / secs:5.2f}x by hand")
    print(f"  {'by hand, one process':24s}{'':26s}{secs:13.1f}")


if __name__ == "__main__":
    main()
