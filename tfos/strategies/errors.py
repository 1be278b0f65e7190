"""Whose fault an error of TensorFlow is."""

from __future__ import annotations

import tensorflow as tf

from tfos.compat.texts import DISAGREE_WORDS, PEER_ERRORS, PEER_WORDS
from tfos.fault.failures import FailureKind


def failure_kind(error: BaseException) -> FailureKind:
    """See Backend.failure_kind."""
    lost = type(error).__name__ in PEER_ERRORS or (
        isinstance(error, tf.errors.OpError)
        and PEER_WORDS.search(str(error))
        and not DISAGREE_WORDS.search(str(error))
    )
    return FailureKind.PEER if lost else FailureKind.EXCEPTION
