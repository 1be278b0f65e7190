"""Private names of TensorFlow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, MutableMapping
from typing import Any

import tensorflow as tf

from tfos.errors import TFOSError

_WAIT = "recovery_wait_secs"


def _missing(error: Exception, what: str, instead: str = "") -> TFOSError:
    """For a version that keeps something elsewhere. instead: what a person can do about it."""
    return TFOSError(
        f"TensorFlow {tf.__version__} {what} elsewhere ({error}): use a version that tfos is tested"
        " with" + (f", or {instead}" if instead else "")
    )


def python_functions() -> MutableMapping[str, Callable[..., Any]]:
    """What the graph operation PyFunc calls in this process, by its token; held weakly.

    Without it workers could not read feeds: tf.py_function runs on the coordinator.
    """
    try:
        from tensorflow.python.ops import script_ops

        found: MutableMapping[str, Callable[..., Any]] = script_ops._py_funcs._funcs
    except (ImportError, AttributeError) as error:
        raise _missing(error, "keeps its registry of PyFunc") from error
    return found


def gradient_recording() -> tuple[Callable[..., None], Callable[[], Any]]:
    """(record_operation, stop_recording): a gradient of our own for one operation.

    Without it a lookup under parameter servers asks for the table's shape in every step.
    """
    try:
        from tensorflow.python.eager.record import record_operation, stop_recording
    except ImportError as error:
        raise _missing(error, "records gradients", "keras.layers.Embedding") from error
    return record_operation, stop_recording


def coordination_context() -> Any:
    """The eager context, whose coordination service can be configured before it is used.

    Without it a process counts as dead after 10 s without a heartbeat, whatever --hang-secs says.
    """
    try:
        from tensorflow.python.eager import context

        found = context.context()
        found.configure_coordination_service  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise _missing(error, "configures its coordination service", "--strategy ps") from error
    return found


def number_of_servers() -> int:
    """How many parameter servers the strategy in whose scope we are has; 1 where it has none.

    Without it tables would not be divided.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return 1
    try:
        return int(strategy.extended._num_ps)
    except AttributeError as error:
        raise _missing(error, "counts parameter servers", "keras.layers.Embedding") from error


def sharded_variable() -> Any:
    """The class of a variable in slices, which a checkpoint has as one."""
    try:
        return tf.__internal__.distribute.ShardedVariable
    except AttributeError as error:
        raise _missing(error, "keeps variables in slices") from error


def converted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's function as tf.function calls it, with AutoGraph; also where that is off.

    It is off in what we trace ourselves: to convert our own Python takes longer than all the rest.
    """
    try:
        from tensorflow.python.autograph.core.ag_ctx import ControlStatusCtx, Status

        convert = tf.__internal__.autograph.tf_convert
    except (ImportError, AttributeError) as error:
        raise _missing(error, "converts functions by AutoGraph") from error
    found: Callable[..., Any] = convert(function, ControlStatusCtx(Status.ENABLED))
    return found


def function_graph(operation: Any, attribute: str) -> Any:
    """The FuncGraph of the function that an attribute of an operation in a graph names.

    Without it nobody knows which outputs of a call or a condition need which of its inputs.
    """
    name = operation.get_attr(attribute).name
    try:
        return operation.graph._get_function(name).graph
    except AttributeError as error:
        raise _missing(error, "keeps the functions of a graph") from error


def shorten_waits(secs: float) -> None:
    """Has TF1's sessions look every `secs` seconds whether the chief has initialized, not every 30.

    MonitoredTrainingSession and Estimator have no argument for it; who gives SessionManager or
    Supervisor a time of its own keeps it. Without it a worker that comes first waits half a minute.
    """
    for kind in (tf.compat.v1.train.SessionManager, tf.compat.v1.train.Supervisor):
        original = kind.__init__
        try:
            at = list(inspect.signature(original).parameters).index(_WAIT)
        except ValueError as error:
            raise _missing(error, "keeps the time that sessions wait") from error
        kind.__init__ = _with_default(original, at, secs)


def _with_default(function: Callable[..., None], at: int, value: float) -> Callable[..., None]:
    """With another default for the argument number `at`."""

    @functools.wraps(function)
    def changed(*args: Any, **kwargs: Any) -> None:
        if len(args) <= at:
            kwargs.setdefault(_WAIT, value)
        function(*args, **kwargs)

    return changed
