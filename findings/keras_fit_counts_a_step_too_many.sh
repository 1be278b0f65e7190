#!/usr/bin/env bash
# Keras's fit counts one more optimizer step in each epoch of a dataset whose length is not known.
#
# Versions: keras 3.15.1, tensorflow 2.21.0.
# Expected: two batches in each of three epochs are six steps of the optimizer, whether tf.data knows
#   the length of the dataset or not (a filter, a generator, files).
# Seen: nine where it does not: optimizer.iterations is raised also by the call that finds the data
#   at an end. So a learning rate schedule runs ahead by a step each epoch, as Adam's correction does.
#   With steps_per_execution=2 it is six again.
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


def steps(length_is_known, steps_per_execution=1):
    data = tf.data.Dataset.from_tensor_slices((np.ones((10, 1)), np.zeros((10, 1)))).batch(5)
    if not length_is_known:
        data = data.filter(lambda x, y: True)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    model.fit(data, epochs=3, verbose=0)
    return int(model.optimizer.iterations)


found = steps(True), steps(False), steps(False, 2)
print("two batches, three epochs; optimizer.iterations afterwards:")
print("length known:", found[0], " not known:", found[1], " not known, steps_per_execution=2:", found[2])
assert found == (6, 9, 6), "Keras counts otherwise now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
