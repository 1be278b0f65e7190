"""Every exception that tfos raises.

    TFOSError
     +-- UsageError       a flag, a Spark conf key or an argument of run() has a bad value
     +-- AppError         app.py is not what tfos expects of an app
     +-- PreflightError   the cluster cannot hold the run as asked
     +-- StartTimeout     the roles did not come up in time
     +-- RegistryError    ZooKeeper cannot be reached or refused
     +-- LakeError        the run directory cannot be read or written
     |    +-- DamagedError     a directory of the lake differs from its COMMIT marker, or has none
     |    +-- FencedError      a chief whose place another one has taken may not write checkpoints
     +-- StoreError       a server of the store cannot be reached, or refused a request
     +-- FeedError        a DataFrame cannot become a feed, or a feed cannot be read
     +-- RunFailed        the run started and failed; .result is its Result

A message names the value that was found and what to change, as a flag of pl_submit or an argument
in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfos.spec.result import Result


class TFOSError(Exception):
    """Base of everything tfos raises by itself."""


class UsageError(TFOSError):
    """A flag, a Spark conf key or an argument has a bad value."""


class AppError(TFOSError):
    """app.py or the TFOnSparkApp in it breaks the contract of tfos.TFOnSparkApp."""


class PreflightError(TFOSError):
    """The cluster cannot hold the run as asked; nothing was started."""


class StartTimeout(TFOSError):
    """Not all roles came up within --start-timeout-secs."""


class RegistryError(TFOSError):
    """ZooKeeper cannot be reached, or refused an operation."""


class LakeError(TFOSError):
    """The run directory cannot be read or written, or holds something unexpected."""


class DamagedError(LakeError):
    """A directory of the lake has no valid COMMIT marker, or differs from what its marker says."""


class FencedError(LakeError):
    """This chief has been replaced; what it would save is not the run's any more."""


class StoreError(TFOSError):
    """A server of the store (tfos.kv) cannot be reached, refused a request, or is another one."""


class FeedError(TFOSError):
    """A DataFrame cannot become a feed, or a feed cannot be read as asked."""


class RunFailed(TFOSError):
    """The run failed; `result` is its tfos.Result."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class Terminated(KeyboardInterrupt):
    """SIGTERM to the driver, which leaves a while for a checkpoint; Ctrl-C does not."""
