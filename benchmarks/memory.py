"""The memory of a run's processes: python benchmarks/memory.py [--against DIR]

A small run under `ps`, with a server, two workers and a chief, in local mode; 16 s after its first
checkpoint, when what it prepares for failures is there. Proportional set sizes, which count a page
that n processes share as an nth for each (proc(5), smaps_rollup), summed up: of the processes that
run TensorFlow with what they are forked from and who watches them, and of everything, with Spark's
JVM, its Python workers, the driver and ZooKeeper.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil
from submit import add_against, builds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import conftest
from runs import Run

_ROLES = ("tfos.runtime.main", "tfos.runtime.fork_server", " -I -S -c ")


def measure(build: Path) -> tuple[float, float]:
    """MiB of the processes with TensorFlow, and of all."""
    conftest.ROOT = build  # whose pl_submit the tests' helpers run
    roles = everything = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as lake:
        run = Run(Path(lake), "memory", "--strategy", "ps")
        try:
            run.wait_for_training()
            time.sleep(16)
            for pid in conftest.our_processes():
                process = psutil.Process(pid)
                mib = process.memory_full_info().pss / 2**20
                everything += mib
                if any(mark in " ".join(process.cmdline()) for mark in _ROLES):
                    roles += mib
            run.finish()
        finally:
            run.close()
    return roles, everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="it is short as it is")
    add_against(parser)
    print(f"{'MiB':10s}{'with TensorFlow':>18s}{'all':>10s}")
    first: tuple[float, float] | None = None
    for name, build in builds(parser.parse_args().against).items():
        found = measure(build)
        first = first or found
        ratios = [f"{mib / before:.2f}x" for mib, before in zip(found, first, strict=True)]
        print(f"  {name:8s}{found[0]:18,.0f}{found[1]:10,.0f}  {' '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
