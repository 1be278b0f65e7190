"""Frameworks that the tests of gangs use where they are installed."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

_MODULES = {"torch": "torch", "jax": "jax", "xgboost": "xgboost", "mpi": "mpi4py"}


def needs(framework: str) -> None:
    """Skips the test where it is not installed."""
    if importlib.util.find_spec(_MODULES[framework]) is None:
        pytest.skip(f"{framework} is not installed: pip install tfos[{framework}]")
    if framework == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed: apt-get install openmpi-bin")


def options_of(framework: str) -> dict[str, bool]:
    """Of the strategy, for this framework."""
    return {"mpi": True} if framework == "mpi" else {}
