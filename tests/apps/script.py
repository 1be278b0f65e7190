"""A script that calls run() itself and trains in a loop of its own."""

import json

from script_settings import LABEL, RATE

import tfos


class Scripted(tfos.TFOnSparkApp):
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--out", required=True)

    def pre_train(self, spark):
        return spark.range(5000).selectExpr("id % 50 as user", f"cast(id % 5 as float) as {LABEL}")

    def train(self, ctx):
        import tensorflow as tf

        with ctx.strategy.scope():
            weight = tf.Variable(0.0)

        def step(features, label):
            error = label - weight
            weight.assign_add(RATE * tf.reduce_mean(error))
            return tf.reduce_mean(error**2)

        dataset = ctx.dataset("train", 100, label=LABEL)
        begin = ctx.checkpoint.restore(weight=weight) or {"epoch": 0}
        losses = []
        for epoch in range(begin["epoch"], 3):
            losses.append(ctx.run_epoch(step, dataset, epoch))
            ctx.checkpoint.save(epoch + 1, {"epoch": epoch + 1})
        return {"losses": losses, "drawn": draw(ctx, dataset)}


def draw(ctx, dataset):
    """The sizes of four batches from a per-worker iterator, as TensorFlow's tutorials make one."""
    import tensorflow as tf

    @tf.function
    def size(iterator):
        _, label = next(iterator)
        return tf.shape(label)[0]

    iterator = iter(ctx.coordinator.create_per_worker_dataset(dataset))
    results = [ctx.coordinator.schedule(size, args=(iterator,)) for _ in range(4)]
    ctx.coordinator.join()
    return [result.fetch() for result in results]


if __name__ == "__main__":
    app = Scripted()
    result = app.run(num_workers=1)
    with open(app.args.out, "w") as file:
        json.dump(result.as_json(), file)
