"""tfos: TensorFlow on a Spark cluster.

Public names only. Importing tfos imports neither TensorFlow nor Spark.
"""

from tfos.app import TFOnSparkApp
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
    TFOSError,
    UsageError,
)
from tfos.feeding.feed import Feed
from tfos.inference.predict import predict
from tfos.spec.result import Result
from tfos.version import __version__

__all__ = [
    "AppError",
    "DamagedError",
    "Feed",
    "FeedError",
    "FencedError",
    "LakeError",
    "PreflightError",
    "RegistryError",
    "Result",
    "RunFailed",
    "StartTimeout",
    "TFOSError",
    "TFOnSparkApp",
    "UsageError",
    "__version__",
    "predict",
]
