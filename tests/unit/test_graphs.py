"""What in a traced graph depends on what: also across functions and conditions."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tfos.training.graphs import reached


def plain(a, b):
    return a + 1, b


def branching(a, b):
    return tf.cond(tf.reduce_sum(a) > 0, lambda: (2 * a, b), lambda: (a, b + 1))


def random(a, b):
    return tf.cond(tf.reduce_sum(b) > 0, lambda: (tf.random.normal([2]) + a, b), lambda: (a, b))


def looping(a, b):
    return tf.while_loop(lambda a, b: tf.reduce_sum(a) < 9, lambda a, b: (a + 1, b), (a, b))


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        (plain, "a"),
        (branching, "a"),
        (tf.function(plain), "a"),
        (tf.function(lambda a, b: tf.function(branching)(a, b)), "a"),
        (lambda a, b: plain(*branching(b, a)), "b"),
        (random, "ab"),
        (looping, "ab"),  # more than it needs, but never less
    ],
)
def test_inputs_that_the_first_output_needs(function, needed):
    found = {}

    @tf.function
    def traced(a, b):
        tensors = list(reached([function(a, b)[0]]))
        assert len({id(tensor) for tensor in tensors}) == len(tensors)
        ids = [id(tensor) for tensor in tensors]
        found["inputs"] = "a" * (id(a) in ids) + "b" * (id(b) in ids)
        found["is random"] = "RandomStandardNormal" in [tensor.op.type for tensor in tensors]

    traced.get_concrete_function(tf.TensorSpec([2]), tf.TensorSpec([2]))
    assert found == {"inputs": needed, "is random": function is random}
