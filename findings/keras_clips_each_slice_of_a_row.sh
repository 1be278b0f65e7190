#!/usr/bin/env bash
# Keras's optimizers clip the slices of a sparse gradient one by one, before those of one row are summed.
#
# Versions: keras 3.15.1, tensorflow 2.21.0.
# Expected: clipnorm, global_clipnorm and clipvalue bound what a step does to a weight, whether its
#   gradient is dense or has slices (as that of an embedding), also where a batch has a row twice.
# Seen: the norm is that of the slices side by side, and each value is clipped alone; the slices of one
#   row are added up afterwards. With a bound of 1 a row that is looked up twice moves by 1.4 (clipnorm,
#   global_clipnorm) and by 2 (clipvalue); with the same gradient in dense form by 1. A row that a
#   batch has k times may move by k times the bound: the frequent rows, for which one clips.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 keras==3.15.1
cd "$work"
cat > try.py <<'PY'
import keras
import tensorflow as tf

SLICES = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 0]), tf.constant([2, 1]))
DENSE = tf.constant([[7.0], [0.0]])


def moved(gradient, bound):
    weight = keras.Variable([[0.0], [0.0]])
    optimizer = keras.optimizers.SGD(1.0, **{bound: 1.0})
    optimizer.build([weight])
    optimizer.apply([gradient], [weight])
    return round(-float(weight[0, 0]), 3)


for bound, seen in (("clipnorm", 1.4), ("global_clipnorm", 1.4), ("clipvalue", 2.0)):
    slices, dense = moved(SLICES, bound), moved(DENSE, bound)
    print(f"{bound}=1: the row moves by {dense} with a dense gradient, by {slices} with slices")
    assert dense == 1.0
    assert slices == seen, "Keras clips slices otherwise now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
