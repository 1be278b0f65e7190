#!/usr/bin/env bash
# tf.numpy_function lets TensorFlow write into Arrow's memory, though NumPy says it is read-only.
#
# Versions: tensorflow 2.21.0, pyarrow 26.0.1.
# Expected: a column that numpy_function returns a zero-copy view of stays as it is. The view is not
#   writeable, and nothing in the graph assigns.
# Seen: an operation on a slice of the tensor (exp(x[:512])) puts its result into the column itself,
#   since TensorFlow takes an array that is aligned to 64 bytes without a copy, and believes that
#   nobody else has the memory. The second call computes from the first one's results. NumPy's own
#   arrays are aligned to 16 bytes and mostly copied, so it shows with Arrow's, whose are to 64.
# Way out: return a copy, array.copy().
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0 pyarrow==26.0.1
cd "$work"
cat > try.py <<'PY'
import numpy as np
import pyarrow as pa
import tensorflow as tf

column = pa.concat_arrays([pa.array(np.linspace(0, 1, 4096, dtype=np.float32)), pa.array([0.0], pa.float32())])
view = column.to_numpy(zero_copy_only=True)
before = view.copy()
print("writeable:", view.flags.writeable, " address modulo 64:", view.ctypes.data % 64)
dataset = tf.data.Dataset.range(1).map(
    lambda i: tf.ensure_shape(tf.numpy_function(lambda i: view[:1024], [i], tf.float32), [1024])
)


@tf.function
def total():
    return tf.reduce_sum(tf.exp(next(iter(dataset))[:512]))


sums = [float(total()) for _ in range(3)]
changed = int((view != before).sum())
print("three times the same sum:", sums)
print("values of the column that have changed:", changed, " its second value:", column[1])
assert not view.flags.writeable
assert changed == 512 and len(set(sums)) == 3, "TensorFlow leaves the column alone now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null
