"""What Keras does otherwise while a step is traced."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfos.training.patches import rows_read


def used(function, *arguments) -> set[str]:
    """The types of the operations in a function's graph whose outputs others take."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    return {op.type for op in graph.get_operations() if any(o.consumers() for o in op.outputs)}


def test_embedding_reads_its_rows_and_not_the_table():
    layer = keras.layers.Embedding(9, 4)
    layer.build([None])
    ids = tf.constant([3, 1, 3])
    # were it otherwise without it, there would be no need for it
    assert "ReadVariableOp" in used(layer, ids)
    with rows_read():
        found = used(layer, ids)
        np.testing.assert_array_equal(layer(ids), layer.embeddings.numpy()[[3, 1, 3]])
    assert "ResourceGather" in found
    assert "ReadVariableOp" not in found
    assert "ReadVariableOp" in used(layer, ids)
