"""What train() has returned, as metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named(returned: Any) -> Mapping[str, Any]:
    """A dict as it is; any other value under "returned"."""
    if returned is None:
        return {}
    return returned if isinstance(returned, Mapping) else {"returned": returned}
