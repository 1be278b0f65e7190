#!/usr/bin/env bash
# Keras under a distribution strategy makes N times the step when a model's output is [batch].
#
# Versions: keras 3.15.1, tensorflow 2.21.0.
# Expected: a model trained on two replicas makes the step of one process with the same rows,
#   whether its output is [batch, 1] or [batch].
# Seen: with [batch, 1] it does. With [batch] the loss is not divided by the number of replicas, and
#   the gradients are summed: with two replicas the step is twice as long (weights of -0.2 instead of
#   0.4). No warning; the loss that is shown is right.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 keras==3.15.1
cd "$work"
cat > try.py <<'PY'
import keras
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def weight_after_a_step(strategy, is_flat):
    with strategy.scope():
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(1, kernel_initializer="ones")(inputs)
        if is_flat:
            outputs = keras.layers.Reshape(())(outputs)
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.1), "mse")
    labels = np.zeros((8,) if is_flat else (8, 1), np.float32)
    model.fit(np.ones((8, 3), np.float32), labels, batch_size=8, verbose=0)
    return round(float(model.get_weights()[0][0, 0]), 4)


two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = {}
for is_flat in (False, True):
    alone, mirrored = (weight_after_a_step(s, is_flat) for s in (tf.distribute.get_strategy(), two))
    print("output [batch]   " if is_flat else "output [batch, 1]", "one process:", alone, " two replicas:", mirrored)
    found[is_flat] = alone, mirrored
assert found[False] == (0.4, 0.4)
assert found[True] == (0.4, -0.2), "Keras divides the loss of such outputs now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
