"""TF1's between-graph replication as it is written everywhere: learns y = 3 x + 2.

A variable counts the steps that each worker has made.
"""

import argparse
import os

import tfos

ROWS = 1000


class Line(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--steps", type=int, default=10**9)
        parser.add_argument("--until", default="", help="a file that ends the training")
        parser.add_argument("--sync", action="store_true")

    def pre_train(self, spark):
        return spark.range(ROWS, numPartitions=3).selectExpr(
            "cast(id / 500.0d - 1 as float) x", "cast(3 * (id / 500.0d - 1) + 2 as float) y"
        )

    def train(self, ctx):
        import tensorflow.compat.v1 as tf

        tf.disable_v2_behavior()
        if ctx.role == "ps":
            ctx.server().join()
        server = ctx.server()
        setter = tf.train.replica_device_setter(
            cluster=ctx.cluster_spec, worker_device=ctx.worker_device
        )
        hooks = [tf.train.StopAtStepHook(last_step=self.args.steps)]
        with tf.device(setter):
            rows = tf.data.make_one_shot_iterator(ctx.dataset("train", 32, label="y")())
            features, y = rows.get_next()
            weights = tf.get_variable("weights", [2], initializer=tf.zeros_initializer())
            number = ctx.num_workers
            counts = tf.get_variable(
                "counts", [number], initializer=tf.zeros_initializer(), trainable=False
            )
            loss = tf.reduce_mean((weights[0] * features["x"] + weights[1] - y) ** 2)
            step = tf.train.get_or_create_global_step()
            optimizer = tf.train.GradientDescentOptimizer(0.05)
            if self.args.sync:
                optimizer = tf.train.SyncReplicasOptimizer(optimizer, number, number)
                hooks.append(optimizer.make_session_run_hook(ctx.is_chief))
            me = 0 if ctx.is_chief else 1 + ctx.index
            count = counts.assign_add(tf.one_hot(me, number))
            train_op = tf.group(optimizer.minimize(loss, global_step=step), count)
        with tf.train.MonitoredTrainingSession(
            server.target,
            is_chief=ctx.is_chief,
            checkpoint_dir=ctx.model_dir,
            save_checkpoint_secs=1,
            hooks=hooks,
            stop_grace_period_secs=5,  # which the chief in step takes in full
            config=ctx.session_config,
        ) as session:
            while not session.should_stop() and not os.path.exists(self.args.until):
                session.run(train_op)
        found = tf.train.load_checkpoint(ctx.model_dir)
        names = ("weights", "counts", "global_step")
        return {name: found.get_tensor(name).tolist() for name in names}
