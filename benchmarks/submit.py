"""Runs an app with bin/pl_submit, for the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_SECS = 600


def submit(
    options: list[str],
    app: str,
    args: list[str],
    timeout_secs: float = _TIMEOUT_SECS,
    build: Path = ROOT,
    python: Path | None = None,
) -> dict[str, Any]:
    """result.json of a run of `app`, a path in this repository, in a lake of its own.

    build: the checkout whose bin/pl_submit it is. python: the interpreter of an environment that
    has tfos, in its place. Raises RuntimeError with the run's last words when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="tfos-benchmark-") as lake:
        program, env = [str(build / "bin" / "pl_submit")], dict(os.environ)
        if python is not None:
            program = [str(python), "-m", "tfos.cli"]
            env.update(PYSPARK_PYTHON=str(python), PYSPARK_DRIVER_PYTHON=str(python))
            env.pop("PYTHONPATH", None)
        command = [*program, "--json", "--lake", lake, *options, str(ROOT / app), *args]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_secs, env=env
        )
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-3000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def add_against(parser: argparse.ArgumentParser) -> None:
    """Declares --against; see builds()."""
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, by turns")


def builds(against: Path | None) -> dict[str, Path]:
    """What is measured, by name: this checkout, after the other one if there is one."""
    return {**({"before": against.resolve()} if against else {}), "now": ROOT}
