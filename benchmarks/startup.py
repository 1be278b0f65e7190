"""From the command to the first training steps: python benchmarks/startup.py [--against DIR]

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

from submit import ROOT, add_against, builds, submit

ARGS = ["--model", "tables", "--batch-size", "8192", "--steps", "50", "--epochs", "2"]
STRATEGIES = {
    "single": [],
    "ps, 2 workers, 1 server": ["--num-workers", "2", "--num-ps", "1"],
    "multi-worker, 2 workers": ["--num-workers", "2"],
}
MASTER = "local[4]"
PHASES = ("pre_train()", "train()", "first steps")
_TIMEOUT_SECS = 300


def with_tfos(strategy: str, build: Path) -> list[float]:
    begun = time.time()
    options = ["--master", MASTER, "--strategy", strategy.split(",")[0], *STRATEGIES[strategy]]
    metrics = submit(options, "benchmarks/apps/steps.py", ARGS, build=build)["metrics"]
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
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_const", const=1, dest="turns", help="one turn")
    add_against(parser)
    options = parser.parse_args()
    measured = builds(options.against)
    taken: dict[tuple[str, str], list[list[float]]] = {
        (strategy, build): [] for strategy in STRATEGIES for build in measured
    }
    alternative = []
    for _ in range(options.turns):
        for (strategy, build), found in taken.items():
            found.append(with_tfos(strategy, measured[build]))
        alternative.append(by_hand())
    secs = statistics.median(alternative)
    print(f"seconds from the command, medians of {options.turns}:")
    print(f"{'':34s}{''.join(f'{phase:>13s}' for phase in PHASES)}")
    before: dict[str, float] = {}
    for (strategy, build), found in taken.items():
        medians = [statistics.median(each) for each in zip(*found, strict=True)]
        print(f"  {strategy:24s}{build:>8s}{''.join(f'{each:13.1f}' for each in medians)}", end="")
        ratio = medians[-1] / before.setdefault(strategy, medians[-1])
        print(f"  {medians[-1] / secs:5.2f}x by hand  {ratio:5.2f}x of the first build")
    print(f"  {'by hand, one process':32s}{'':26s}{secs:13.1f}")


if __name__ == "__main__":
    main()
