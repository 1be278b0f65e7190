"""The result of a run: what of it needs no driver."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

# pl_submit names a file here, to have the result even of a run that never had a lake
RESULT_FILE_ENV = "TFOS_RESULT_FILE"


def sum_stats(lives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What saving checkpoints took in all lives of the chief; empty when none got that far.

    lives: Checkpointer.stats at the end of each.
    """
    if not lives:
        return {}
    took = {key: round(sum(s.get(key, 0) for s in lives), 3) for key in ("stall_secs", "save_secs")}
    return {
        "saved": sum(s.get("saved", 0) for s in lives),
        "step": max(s.get("step", 0) for s in lives),
        **took,
    }


def finite(value: Any) -> Any:
    """`value` with null for each number that JSON has no word for: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def write_result_file(result: Mapping[str, Any]) -> None:
    """Leaves the result where pl_submit asked for it, if it did."""
    path = os.environ.get(RESULT_FILE_ENV)
    if path:
        with open(path, "w") as file:
            json.dump(result, file)
