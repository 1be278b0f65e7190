#!/usr/bin/env bash
# A train_step that returns its loss as {"loss": loss} has 0 in its history.
#
# Versions: keras 3.15.1, tensorflow 2.21.0.
# Expected: fit() reports what train_step returns, as it does for a value of any other name.
# Seen: where the names returned are those of the model's metrics, fit() drops the values and reports
#   the metrics' results. Every compiled model has a metric "loss", also without a loss; the step has
#   not updated it, and so the history has 0.0 for each epoch. EarlyStopping("loss"), ReduceLROnPlateau
#   and ModelCheckpoint then see a loss that never changes. The same value under another name is
#   reported as it is.
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


class Line(keras.Model):
    def __init__(self, name_of_loss):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros")
        self.name_of_loss = name_of_loss

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {self.name_of_loss: loss}


x, y = np.ones((8, 2), "float32"), np.full((8, 1), 5, "float32")
for compiled in ({"loss": "mse"}, {}):
    for name in ("loss", "error"):
        model = Line(name)
        model.compile(keras.optimizers.SGD(0.01), **compiled)
        first = model.fit(x, y, verbose=0).history[name][0]
        print(f"compile({compiled}), returned as {name!r}: {first}")
        assert first == (0.0 if name == "loss" else 25.0), "Keras reports it otherwise now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
