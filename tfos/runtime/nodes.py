"""What ZooKeeper holds of an attempt, as data; see runtime/keys.py for the names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AttemptNodes:
    """The values of an attempt's nodes, by name. failures: by "<task>.<life>"."""

    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ready: Mapping[str, int] = field(default_factory=dict)
    lives: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    progress: Mapping[str, Any] | None = None
    outcome: Mapping[str, Any] | None = None
