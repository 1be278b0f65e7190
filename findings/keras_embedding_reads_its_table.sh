#!/usr/bin/env bash
# keras.layers.Embedding reads its whole table for each lookup.
#
# Versions: keras 3.15.1, tensorflow 2.21.0.
# Expected: a lookup of some ids gathers their rows from the variable, as tf.gather does from a
#   tf.Variable (ResourceGather), and as Keras 2 did.
# Seen: the layer's graph has ReadVariableOp, of all rows, and GatherV2 of what was read. On one
#   machine that is hidden; where the variable is on a parameter server the table travels in each step,
#   and where an optimizer writes rows of it each read makes a copy.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 keras==3.15.1
cd "$work"
cat > try.py <<'PY'
import keras
import tensorflow as tf

IDS = tf.TensorSpec([None], tf.int64)


def reads(function):
    graph = tf.function(function).get_concrete_function(IDS).graph
    return sorted(op.type for op in graph.get_operations() if op.type in READS)


READS = {"ReadVariableOp", "GatherV2", "ResourceGather"}
layer = keras.layers.Embedding(1_000_000, 16)
layer.build()
variable = tf.Variable(tf.zeros([1_000_000, 16]))
keras_reads, gather_reads = reads(layer), reads(lambda ids: tf.gather(variable, ids))
print("keras.layers.Embedding:", keras_reads)
print("tf.gather of a tf.Variable:", gather_reads)
assert gather_reads == ["ResourceGather"]
assert keras_reads == ["GatherV2", "ReadVariableOp"], "Keras looks rows up otherwise now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
