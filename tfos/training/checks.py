"""What a model must be for the strategy to train it; asked before any step is made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.compat.keras import all_layers
from tfos.errors import UsageError
from tfos.training.graphs import reached
from tfos.training.runner import Runner

# operations that call a Python function by a number that only the process knows that made it
_PYTHON_CALLS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_log = logging.getLogger(__name__)


def check_model(model: keras.Model, runner: Runner, needs_compile: bool) -> None:
    """Raises UsageError for a model that cannot be run as it is.

    One that is not compiled, or is to be run eagerly; whose variables are not the strategy's; whose
    optimizer the strategy cannot run; or that keeps state from batch to batch where several workers
    go through the rows.
    """
    if needs_compile and not getattr(model, "compiled", False):
        raise UsageError(
            f"model {model.name!r} is not compiled: call model.compile(...) before fit"
        )
    if getattr(model, "run_eagerly", False) or tf.config.functions_run_eagerly():
        raise UsageError(
            f"model {model.name!r} is to run eagerly (compile(run_eagerly=True), or"
            " tf.config.run_functions_eagerly(True)), but tfos runs its steps as a graph, on"
            " workers: leave that out, and use tf.print to look inside"
        )
    optimizer = model.optimizer.variables if needs_compile and model.optimizer else []
    _check_owned(model, [*model.variables, *optimizer], runner)
    if needs_compile and (runner.is_asynchronous or runner.replicas > 1):
        _check_conditions(model.optimizer)
    if runner.parallelism * runner.replicas > 1:
        for layer in all_layers(model):
            if getattr(layer, "stateful", False):
                raise UsageError(
                    f"layer {layer.path} of model {model.name!r} is stateful: it goes on where the"
                    " batch before has ended, which another worker may have had; use --num-workers"
                    " 1 or --strategy single"
                )
    if needs_compile and model.jit_compile:
        _log.warning(
            "model %s is compiled with jit_compile=True: its steps run without XLA", model.name
        )


def _check_owned(model: keras.Model, variables: Sequence[Any], runner: Runner) -> None:
    for variable in variables:
        if not runner.owns(variable.value):
            raise UsageError(
                f"variable {variable.path} of model {model.name!r} is not the strategy's: make and"
                " compile the model, and its optimizer, inside `with ctx.strategy.scope():`"
            )


def check_optimizer(model: keras.Model, optimizer: Any, runner: Runner) -> None:
    """Raises UsageError for one that a step of the model's own applies and the strategy cannot."""
    _check_owned(model, optimizer.variables, runner)
    if runner.is_asynchronous or runner.replicas > 1:
        _check_conditions(optimizer)


def _check_conditions(optimizer: Any) -> None:
    """Raises UsageError for one that updates weights in a condition, which strategies forbid."""
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise UsageError(
            f"optimizer {optimizer.name} has gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps}, which only --strategy single can do: use a"
            " larger batch_size instead"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UsageError(
            f"optimizer {optimizer.name} scales the loss, for mixed_float16, which only --strategy"
            " single can do: use mixed_bfloat16, or compile(auto_scale_loss=False)"
        )


def check_graph(model: keras.Model, graph: Any, runner: Runner) -> None:
    """Raises UsageError when the graph of a model, called once, cannot run on another machine."""
    if not runner.is_asynchronous or runner.store_of(model) is not None:
        return
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    for node in nodes:
        if node.op in _PYTHON_CALLS:
            raise UsageError(
                f"model {model.name!r} calls Python (tf.py_function or tf.numpy_function, in"
                f" {node.name}), which no other machine can: use TensorFlow operations,"
                " or --strategy multi-worker"
            )


def check_others(model: keras.Model, others: Mapping[str, Any], state: Sequence[Any]) -> None:
    """Raises UsageError where a step's log, which is no metric's result, was computed of one.

    others: such logs, by name. state: the metrics' state before the step. In the step's graph.
    """
    given = {id(tensor) for tensor in state}
    for name, value in others.items():
        if any(id(tensor) in given for tensor in reached([value])):
            raise UsageError(
                f"the step of model {model.name!r} returns {name!r}, which it computes from the"
                " state of a metric: that has seen only what one worker saw; return a metric's"
                " result() as it is, and give the model a metric of its own for what else is wanted"
            )
