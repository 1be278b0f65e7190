"""Options that several strategies have in common."""

from __future__ import annotations

from typing import Any

from tfos.spec.options import option


def num_ps() -> Any:
    return option(1, "servers, with --strategy ps, kv or between-graph", "N")


def num_workers() -> Any:
    return option(2, "workers; under multi-worker and between-graph the chief is one of them", "N")
