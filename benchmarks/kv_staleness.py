"""What --staleness costs and gains: python benchmarks/kv_staleness.py [--quick] [--workers WHICH]

benchmarks/apps/fm.py with labels that can be learned, under kv with two workers and one server:
rows a second of the epochs after the first, and the training loss of the last one, after equal
epochs. Workers are even, and then one of them is slowed to a third: it is stopped (SIGSTOP) for two
thirds of each 30 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import role_pids
from runs import Run
from submit import ROOT

OPTIONS = ("--master", "local[4]", "--strategy", "kv", "--num-workers", 2, "--num-ps", 1)
BOUNDS = ("0", "1", "4", "16", "inf")
_RUN_SECS, _STOP_SECS = 0.01, 0.02
_LOOK_SECS = 0.2


def slow(run_id: str, task: str, is_over: threading.Event) -> None:
    """Lets a process of the run have a third of the time, from when it is there."""
    while not is_over.wait(_LOOK_SECS):
        pid = role_pids(run_id).get(task)
        with contextlib.suppress(ProcessLookupError):
            while pid is not None and not is_over.wait(_RUN_SECS):
                os.kill(pid, signal.SIGSTOP)
                try:
                    is_over.wait(_STOP_SECS)
                finally:
                    os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def slowed(run_id: str, task: str) -> Iterator[None]:
    is_over = threading.Event()
    thread = threading.Thread(target=slow, args=(run_id, task, is_over))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def measured(bound: str, is_slowed: bool, args: tuple[Any, ...]) -> dict[str, float]:
    run_id = f"staleness-{os.getpid()}-{bound}"
    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as lake:
        run = Run(
            Path(lake), run_id, *OPTIONS, "--staleness", bound, "--checkpoint-secs", 1000,
            app=ROOT / "benchmarks" / "apps" / "fm.py", args=args, takes_until=False,
        )  # fmt: skip
        try:
            with slowed(run_id, "worker-1") if is_slowed else contextlib.nullcontext():
                result = run.finish(300)
        finally:
            run.close()
    found: dict[str, float] = result["metrics"]["fits"]["4096"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows")
    parser.add_argument("--workers", choices=["even", "slowed", "both"], default="both")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    rows = 100_000 if options.quick else options.rows
    args = (
        "--rows", rows, "--epochs", options.epochs, "--table-rows", 20_000, "--labels", "product",
        "--optimizer", "Adam",
    )  # fmt: skip
    print(f"{rows:,} rows, {options.epochs} epochs; rows/s, loss of the last epoch:")
    for which in ("even", "slowed") if options.workers == "both" else (options.workers,):
        for bound in BOUNDS:
            found = measured(bound, which == "slowed", args)
            rate, loss = found["rows_per_sec"], found["loss"]
            print(f"  {which:6s} staleness {bound:3s} {rate:12,.0f} {loss:8.4f}", flush=True)


if __name__ == "__main__":
    main()
