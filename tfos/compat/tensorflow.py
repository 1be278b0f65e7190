"""Private names of TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfos.errors import TFOSError


def missing(error: Exception, what: str, instead: str) -> TFOSError:
    """For a version that keeps something elsewhere. instead: what a person can do about it."""
    return TFOSError(
        f"TensorFlow {tf.__version__} {what} ({error}): use a version that tfos is tested with"
        + (f", or {instead}" if instead else "")
    )


def coordination_context() -> Any:
    """The eager context, whose coordination service can be configured before it is used.

    Without it a process counts as dead after 10 s without a heartbeat, whatever --hang-secs says.
    """
    try:
        from tensorflow.python.eager import context

        found = context.context()
        found.configure_coordination_service  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise missing(
            error, "configures its coordination service elsewhere", "--strategy ps"
        ) from error
    return found


def function_graph(operation: Any, attribute: str) -> Any:
    """The FuncGraph of the function that an attribute of an operation in a graph names.

    Without it nobody knows which outputs of a call or a condition need which of its inputs.
    """
    name = operation.get_attr(attribute).name
    try:
        return operation.graph._get_function(name).graph
    except AttributeError as error:
        raise missing(error, "keeps the functions of a graph elsewhere", "") from error
