"""tfos: TensorFlow on a Spark cluster.

Public names only. Importing tfos imports neither TensorFlow nor Spark. TrainContext and
FeedDataset, which do, are here for annotations, and imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING

from tfos.app import TFOnSparkApp, run
from tfos.client.status import RoleStatus, Status
from tfos.errors import (
    AppError,
    DamagedError,
    FeedError,
    FencedError,
    LakeError,
    PreflightError,
    RegistryError,
    RunFailed,
    StartTimeout,
    StoreError,
    TFOSError,
    UsageError,
)
from tfos.fault.failures import Failure
from tfos.feeding.feed import Feed
from tfos.inference.predict import predict
from tfos.spec.result import Result
from tfos.version import __version__

if TYPE_CHECKING:
    from tfos.client.handle import Run, runs
    from tfos.context import TrainContext as TrainContext
    from tfos.feeding.dataset import FeedDataset as FeedDataset
else:  # which a type checker would take for any name

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Name -> module. Those that need TensorFlow are not in __all__: a star import would import it.
_LAZY = {
    "FeedDataset": "tfos.feeding.dataset",
    "Run": "tfos.client.handle",
    "TrainContext": "tfos.context",
    "runs": "tfos.client.handle",
}

__all__ = [
    "AppError",
    "DamagedError",
    "Failure",
    "Feed",
    "FeedError",
    "FencedError",
    "LakeError",
    "PreflightError",
    "RegistryError",
    "Result",
    "RoleStatus",
    "Run",
    "RunFailed",
    "StartTimeout",
    "Status",
    "StoreError",
    "TFOSError",
    "TFOnSparkApp",
    "UsageError",
    "__version__",
    "predict",
    "run",
    "runs",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
