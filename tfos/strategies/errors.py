"""Whose fault an error of TensorFlow is."""

from __future__ import annotations

import re

import tensorflow as tf

from tfos.fault.failures import FailureKind

# exceptions that tell of another process's death, not of an error here
_PEER_ERRORS = ("UnavailableError", "PSUnavailableError", "AbortedError", "CancelledError")
_PEER_WORDS = re.compile(
    "context_id|remote_handle|Socket closed|Stream removed|failed to connect|Connection re"
    "|Collective ops is aborted|stopped sending heartbeats|Error reported from /job"
)
# also "aborted", though nobody died: user code that gives collectives other shapes each time
_DISAGREE_WORDS = re.compile("mismatch in the collective")


def failure_kind(error: BaseException) -> FailureKind:
    """See Backend.failure_kind."""
    lost = type(error).__name__ in _PEER_ERRORS or (
        isinstance(error, tf.errors.OpError)
        and _PEER_WORDS.search(str(error))
        and not _DISAGREE_WORDS.search(str(error))
    )
    return FailureKind.PEER if lost else FailureKind.EXCEPTION
