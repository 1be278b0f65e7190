"""A graph that is compiled by XLA once it has shown that it is used often."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# to compile takes seconds, and saves a millisecond or two of a step
_AFTER_CALLS = 200
# of a step whose batches are all different, such as ragged ones
_MOST_SHAPES = 1000
_NOT_COMPILED = {
    *("Assert", "CheckNumerics", "CheckNumericsV2", "PrintV2", "PyFunc", "EagerPyFunc"),
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal"),
    *("RandomShuffle", "RandomGammaV2", "RandomPoissonV2", "Multinomial"),
}
_log = logging.getLogger(__name__)


class Faster:
    """`function` as a tf.function of the signature; for arguments of shapes that came often,
    compiled for these. One that XLA cannot compile stays as it is.
    """

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self._plain = tf.function(function, input_signature=signature, autograph=False)
        graph = self._plain.get_concrete_function().graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        # XLA leaves checks out, and makes random numbers otherwise
        self._fails = any(node.op in _NOT_COMPILED for node in nodes)
        self._compiled = tf.function(function, autograph=False, jit_compile=True)
        self._calls: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, *arguments: Any) -> Any:
        flat = tf.nest.flatten(arguments, expand_composites=True)
        shapes = tuple(tuple(each.shape) for each in flat)
        if len(self._calls) > _MOST_SHAPES:
            self._calls.clear()
        self._calls[shapes] += 1
        if self._fails or self._calls[shapes] <= _AFTER_CALLS:
            return self._plain(*arguments)
        try:
            return self._compiled(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            # nothing has been changed; an error of the step's own comes again
            _log.info("a step stays without XLA: %s", str(error).splitlines()[0])
            self._fails = True
            return self._plain(*arguments)
