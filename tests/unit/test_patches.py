"""What Keras does otherwise while a step is traced."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfos.layers
from tfos.training.patches import rows_read


def used(function, *arguments) -> set[str]:
    """The types of the operations in a function's graph whose outputs others take."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    return {op.type for op in graph.get_operations() if any(o.consumers() for o in op.outputs)}


def looked_up(layer, ids) -> set[str]:
    """Of a lookup and its gradient, in this strategy's replica."""

    def step(ids):
        with tf.GradientTape() as tape:
            found = tf.reduce_sum(layer(ids) ** 2)
        return tape.gradient(found, [layer.weights[0].value])[0].values

    return used(lambda ids: tf.distribute.get_strategy().run(step, (ids,)), ids)


@pytest.mark.parametrize("make", [keras.layers.Embedding, tfos.layers.Embedding])
@pytest.mark.parametrize("mirrored", [False, True])
def test_embedding_reads_its_rows_and_not_the_table(make, mirrored):
    strategies = tf.distribute
    strategy = strategies.MirroredStrategy(["CPU:0"]) if mirrored else strategies.get_strategy()
    with strategy.scope():
        layer = make(9, 4)
        layer.build([None])
        ids = tf.constant([3, 1, 3])
        if make is keras.layers.Embedding:
            # were it otherwise without it, there would be no need for it
            assert "ReadVariableOp" in looked_up(layer, ids)
        with rows_read():
            found = looked_up(layer, ids)
        assert "ResourceGather" in found
        assert "ReadVariableOp" not in found


def test_rows_that_are_read_are_those_asked_for():
    layer = keras.layers.Embedding(9, 4)
    layer.build([None])
    with rows_read():
        found = layer(tf.constant([3, 1, 3]))
    np.testing.assert_array_equal(found, layer.embeddings.numpy()[[3, 1, 3]])
