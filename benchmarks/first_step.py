"""What an archive and cluster mode cost: python benchmarks/first_step.py [--turns N] [--quick]

Seconds from pl_submit to pre_train(), to train() and to the first steps of a small model in one
role, on a YARN of two nodes with its HDFS and on a standalone cluster of two workers, all here:
in client and in cluster mode, with the environment that lies on the nodes and with one that --pack
has made an archive of. The archive is there before the clock starts. Ratios are to client mode, or
to standalone, without an archive. --quick is one turn.
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

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import SparkCluster

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "hadoop"))
from hadoop_cluster import HadoopCluster
from submit import ROOT, submit

_PHASES = ("pre_train_at", "train_at", "first_steps_at")
_ARGS = ["--model", "tables", "--batch-size", "8192", "--steps", "50", "--epochs", "2"]
_WAYS = {
    "yarn, client": [],
    "yarn, client, --pack": ["--pack"],
    "yarn, cluster": ["--deploy-mode", "cluster"],
    "yarn, cluster, --pack": ["--deploy-mode", "cluster", "--pack"],
    "standalone": [],
    "standalone, --pack": ["--pack"],
}


def measure(way: str, master: list[str], archive: Path) -> list[float]:
    options = [*master, "--strategy", "single", "--start-timeout-secs", "500"]
    for word in _WAYS[way]:
        options += [word, str(archive)] if word == "--pack" else [word]
    begun = time.time()
    metrics = submit(options, "benchmarks/apps/steps.py", _ARGS)["metrics"]
    return [metrics[phase] - begun for phase in _PHASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_const", const=1, dest="turns", help="one turn")
    parser.add_argument("--only", action="append", choices=_WAYS, help="one way; may be repeated")
    parser.add_argument("--archive", type=Path, help="where it is, or is to be, for next time")
    given = parser.parse_args()
    ways = given.only or list(_WAYS)
    taken: dict[str, list[list[float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="tfos-first-step-") as home:
        archive = given.archive or Path(home, "env.tar.gz")
        if any(_WAYS[way] and _WAYS[way][-1] == "--pack" for way in ways):
            subprocess.run([ROOT / "bin" / "pl_submit", "--pack", archive], check=True)
            print(f"the archive has {archive.stat().st_size / 1e6:.0f} MB")
        for kind in ("yarn", "standalone"):
            if not any(way.startswith(kind) for way in ways):
                continue
            place = Path(home, kind)
            place.mkdir()
            cluster = HadoopCluster(place) if kind == "yarn" else SparkCluster(place)
            try:
                if isinstance(cluster, HadoopCluster):
                    os.environ.update(cluster.environment)
                    master = ["--master", "yarn", "--lake", "hdfs:///runs"]
                else:
                    for name in "ab":
                        cluster.add_worker(name, 2)
                    master = ["--master", cluster.url]
                for _ in range(given.turns):
                    for way in ways:
                        if way.startswith(kind):
                            taken[way].append(measure(way, master, archive))
                            print(f"  {way}: {taken[way][-1][-1]:.1f} s", file=sys.stderr)
            finally:
                cluster.close()
    print(f"seconds from the command, medians of {given.turns}:")
    print(f"{'':24s}{'pre_train()':>13s}{'train()':>13s}{'first steps':>13s}")
    first: dict[str, float] = {}
    for way, found in taken.items():
        medians = [statistics.median(each) for each in zip(*found, strict=True)]
        ratio = medians[-1] / first.setdefault(way.partition(",")[0], medians[-1])
        print(f"  {way:22s}{''.join(f'{each:13.1f}' for each in medians)}  {ratio:5.2f}x")


if __name__ == "__main__":
    main()
