"""Runs all benchmarks, and writes RESULTS.md: bin/bench [--quick] [NAME...]

NAME: only these; what RESULTS.md has of the others stays.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
NAMES = (
    "optimizers", "training", "tables", "allreduce", "feed", "soak", "overlap", "startup",
    "memory", "predict", "recovery", "kv", "kv_fm", "kv_staleness", "kv_sparse",
)  # fmt: skip
_TIMEOUT_SECS = 3600


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "pyspark"))
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, Python"
        f" {platform.python_version()}, {packages}"
    )


def sections() -> dict[str, str]:
    """What RESULTS.md has, by benchmark."""
    if not RESULTS.exists():
        return {}
    parts = RESULTS.read_text().split("\n## ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each in its short form")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}: use {', '.join(NAMES)}")
    found = sections()
    for name in arguments.names or NAMES:
        command = [f"benchmarks/{name}.py", *(["--quick"] if arguments.quick else [])]
        print(f"python {' '.join(command)}", flush=True)
        ended = subprocess.run(
            [sys.executable, *command], cwd=HERE.parent, capture_output=True, text=True,
            timeout=_TIMEOUT_SECS,
        )  # fmt: skip
        if ended.returncode != 0:
            sys.exit(f"{name} failed, its section stays as it was:\n{ended.stderr[-3000:]}")
        print(ended.stdout)
        found[name] = (
            f"\n`python {' '.join(command)}`, {datetime.date.today()}, on {machine()}:\n\n"
            f"```\n{ended.stdout.rstrip()}\n```\n"
        )
        head = "# Results\n\nWritten by `bin/bench`.\n"
        body = (f"\n## {each}\n{found[each]}" for each in NAMES if each in found)
        RESULTS.write_text(head + "".join(body))


if __name__ == "__main__":
    main()
