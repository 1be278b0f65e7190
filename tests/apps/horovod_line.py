"""Horovod as it is written everywhere: learns y = 3 x + 2 with a tape, then with Model.fit."""

import numpy as np

import tfos

ROWS, EPOCHS = 1000, 4


class Line(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).selectExpr(
            "cast(id / 500.0d - 1 as float) x", "cast(3 * (id / 500.0d - 1) + 2 as float) y"
        )

    def train(self, ctx):
        import horovod.tensorflow as hvd

        hvd.init()
        return {
            "world": [hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size()],
            "across": [hvd.cross_rank(), hvd.cross_size()],
            "controller": [hvd.gloo_enabled(), hvd.mpi_built() and hvd.mpi_enabled()],
            "with_tape": with_tape(ctx),
            **with_fit(ctx),
        }


def of_all(value):
    """The values of all ranks, in each: [ranks, ...]."""
    import horovod.tensorflow as hvd

    return hvd.allgather(np.asarray(value, np.float64)[None]).numpy().tolist()


def with_tape(ctx):
    import horovod.tensorflow as hvd
    import tensorflow as tf

    weights = tf.Variable([float(hvd.rank()), -5.0])  # others in each rank
    optimizer = tf.keras.optimizers.SGD(0.2)
    hvd.broadcast_variables([weights], root_rank=0)
    train = ctx.dataset("train", 10, label="y")
    while train.epoch < EPOCHS:
        for features, y in train.numpy():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((weights[0] * features["x"] + weights[1] - y) ** 2)
            tape = hvd.DistributedGradientTape(tape)
            optimizer.apply_gradients(zip(tape.gradient(loss, [weights]), [weights], strict=True))
    return of_all(weights.numpy())


def with_fit(ctx):
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    tf.keras.utils.set_random_seed(hvd.rank())
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    begun = of_all(model.get_weights()[0].ravel())
    model.compile(hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.2)), "mse")
    ((x, y),) = ctx.dataset("train", None, features="x", label="y").in_order().numpy()
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
    ]
    # half of the rows each: as many batches in all ranks
    history = model.fit(x, y, batch_size=10, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return {
        "begun": begun,
        "with_fit": of_all(np.concatenate([each.ravel() for each in model.get_weights()])),
        "losses": of_all(history.history["loss"]),
    }
