"""Options that several strategies have in common."""

from __future__ import annotations

from typing import Any

from tfos.spec.options import option


def num_ps() -> Any:
    return option(1, "servers, with --strategy ps, kv or between-graph", "N")


def num_workers() -> Any:
    text = "workers; under multi-worker, between-graph and gang the chief is one of them"
    return option(2, text, "N")
