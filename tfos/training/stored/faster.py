"""A graph that is compiled by XLA once it has shown that it is used often."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# to compile takes seconds, and saves a millisecond or two of a step
_AFTER_CALLS = 200
_log = logging.getLogger(__name__)


class Faster:
    """`function` as a tf.function of the signature; for arguments of shapes that came often,
    compiled for these. One that XLA cannot compile stays as it is.
    """

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self._plain = tf.function(function, input_signature=signature, autograph=False)
        self._plain.get_concrete_function()
        self._compiled = tf.function(function, autograph=False, jit_compile=True)
        self._calls: Counter[tuple[Any, ...]] = Counter()
        self._fails = False

    def __call__(self, *arguments: Any) -> Any:
        flat = tf.nest.flatten(arguments, expand_composites=True)
        shapes = tuple(tuple(each.shape) for each in flat)
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
