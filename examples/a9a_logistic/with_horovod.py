"""The same models in Keras 2 with Horovod, in each process of a gang.

    bin/pl_submit --strategy gang --num-workers 2 examples/a9a_logistic/with_horovod.py \
        --data DIR/a9a
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from app import A9aLogistic
from quality import quality


class A9aHorovod(A9aLogistic):
    def train(self, ctx: Any) -> dict[str, float]:
        """Trains, or goes on from the newest checkpoint, and evaluates in rank 0."""
        import horovod.tensorflow.keras as hvd
        import tensorflow as tf
        from horovod.tensorflow import broadcast_variables

        args = self.args
        hvd.init()
        train = ctx.dataset("train", args.batch_size // hvd.size(), label="label")
        inputs = tf.keras.Input((train.columns[0].length,))
        penalty = tf.keras.regularizers.L2(0.5 / (args.cost * self.train_rows))
        below = inputs
        if args.hidden:
            hidden = tf.keras.layers.Dense(args.hidden, "relu", kernel_regularizer=penalty)
            below = hidden(inputs)
        layer = tf.keras.layers.Dense(1, kernel_initializer="zeros", kernel_regularizer=penalty)
        model = tf.keras.Model(inputs, layer(below))
        steps = args.epochs * train.steps_per_epoch
        rate = tf.keras.optimizers.schedules.CosineDecay(args.learning_rate, steps, alpha=0.01)
        optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(rate))
        model.compile(optimizer, tf.keras.losses.BinaryCrossentropy(from_logits=True))
        optimizer.build(model.trainable_variables)
        state = tf.train.Checkpoint(model=model, optimizer=optimizer)
        newest = ctx.checkpoint.newest()
        if newest is not None:
            state.read(str(newest / "state")).assert_consumed()
        broadcast_variables([*model.variables, *optimizer.variables], root_rank=0)

        saved = -1

        def save() -> None:
            nonlocal saved
            step = int(optimizer.iterations)
            if saved == step:  # at the end of an epoch one may have been due as well
                return
            saved = step
            with tempfile.TemporaryDirectory() as local:
                state.write(str(Path(local, "state")))
                ctx.checkpoint.save_dir(local, step)

        while train.epoch < args.epochs:
            for features, label in train.numpy():
                loss = model.train_on_batch(features["features"], label)
                if ctx.checkpoint.due():
                    save()
            ctx.report(loss=loss)
            if ctx.is_chief:
                save()
        if not ctx.is_chief:
            return {}
        ((features, label),) = ctx.dataset("test", None, label="label").whole().numpy()
        return quality(model.predict_on_batch(features["features"])[:, 0], label)
