"""Optimizer updates that several asynchronous workers may make at once.

A Keras optimizer updates a variable in several operations. Under parameter servers two workers'
operations interleave: with Adam, one worker reads the first moment that another has just written
and the second moment that it has not, still zero for a row that is seen for the first time,
divides by it, and the row is thrown far away. (Seen: a factorization machine with two workers
went from a loss of 2.2 to one of 78 in its first epoch.) TensorFlow's fused update kernels do
the whole update under the variable's lock, on the server that holds it.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfos.compat.keras import adam_moments
from tfos.errors import UsageError
from tfos.tables.sparse_optimizer import SparseOptimizer

# one operation per variable, or a slot whose interleaved updates keep the step bounded
_SAFE = (keras.optimizers.SGD, keras.optimizers.Adagrad, SparseOptimizer)


def make_atomic(optimizer: keras.optimizers.Optimizer, workers: int) -> None:
    """Gives `optimizer` an update step that is safe under `workers` asynchronous workers.

    Adam and AdamW take the fused kernel, whose formula is Keras's (Kingma and Ba 2015, the
    efficient form of section 2); SGD and Adagrad, and tfos's own optimizers, need none. Raises
    UsageError for an optimizer that would not be safe.
    """
    step = type(optimizer).update_step
    if workers == 1 or any(step is safe.update_step for safe in _SAFE):
        return
    if step is not keras.optimizers.Adam.update_step or optimizer.amsgrad:
        raise UsageError(
            f"optimizer {type(optimizer).__name__}"
            f"{' with amsgrad=True' if getattr(optimizer, 'amsgrad', False) else ''} updates its"
            f" variables in several steps, which {workers} asynchronous workers would tear apart;"
            " use one of tfos.optimizers, or Adam, AdamW, Adagrad or SGD of Keras, or --num-workers"
            " 1, or --strategy single"
        )
    optimizer.update_step = lambda gradient, variable, learning_rate: _adam_step(
        optimizer, gradient, variable, learning_rate
    )


def _adam_step(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    moments = adam_moments(optimizer, variable)
    dtype = variable.dtype
    step = tf.cast(optimizer.iterations + 1, dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=moments[0].handle,
        v=moments[1].handle,
        beta1_power=tf.pow(tf.cast(optimizer.beta_1, dtype), step),
        beta2_power=tf.pow(tf.cast(optimizer.beta_2, dtype), step),
        lr=tf.cast(learning_rate, dtype),
        beta1=tf.cast(optimizer.beta_1, dtype),
        beta2=tf.cast(optimizer.beta_2, dtype),
        epsilon=tf.cast(optimizer.epsilon, dtype),
        grad=tf.convert_to_tensor(gradient),
        use_locking=True,
    )
