"""Rows a second of a factorization machine over two large tables, and what a step is made of."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

NAMES = ("user", "item")


def _memory() -> dict[str, int]:
    """The most resident memory that each process of this run has had, in MiB, by role."""

    def role_and_run(process: psutil.Process) -> list[str]:
        line = " ".join(process.cmdline()).split()  # a title that was set is one word
        at = line.index("tfos.runtime.main") if "tfos.runtime.main" in line else len(line)
        return line[at + 1 : at + 3]

    mine = role_and_run(psutil.Process())
    found: dict[str, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # one that has just ended
            task = role_and_run(process)
            if task and task[1:] == mine[1:]:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
                # the spare of a process has the same name, and less memory
                found[task[0]] = max(found.get(task[0], 0), peak)
    return found


class FactorizationMachine(tfos.TFOnSparkApp):
    """w_user + w_item + <v_user, v_item>; the first element of a vector is w."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=2_000_000)
        parser.add_argument("--table-rows", type=int, default=2_000_000)
        parser.add_argument("--width", type=int, default=16)
        parser.add_argument("--batch-sizes", default="4096", help="one fit for each")
        parser.add_argument("--epochs", type=int, default=4, help="of which the first is not timed")
        parser.add_argument("--layers", choices=["tfos", "keras"], default="tfos")
        parser.add_argument("--optimizer", default="Adagrad", help="of tfos, or of Keras")
        parser.add_argument("--labels", choices=["parity", "product"], default="parity",
                            help="product: what such a model can learn")  # fmt: skip
        parser.add_argument("--parts", action="store_true", help="time the parts of a step instead")

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        rows = spark.range(0, self.args.rows, 1, 4)
        ids = [f"int(rand({n}) * {self.args.table_rows}) as {x}" for n, x in enumerate(NAMES)]
        y = {"parity": "id % 2", "product": "(user % 7 - 3) * (item % 5 - 2) / 6.0"}
        frame = rows.selectExpr("id", *ids)
        return {"train": frame.selectExpr(*NAMES, f"cast({y[self.args.labels]} as float) as y")}

    def train(self, ctx: Any) -> dict[str, Any]:
        sizes = [int(size) for size in self.args.batch_sizes.split(",")]
        if self.args.parts:
            return {"step_ms": self._step_parts(ctx, sizes[0])}
        fits = {str(size): self._fit(ctx, size) for size in sizes}
        return {"fits": fits, "memory_mib": _memory()}

    def _tables(self) -> list[Any]:
        import keras

        from tfos.layers import Embedding

        layer = Embedding if self.args.layers == "tfos" else keras.layers.Embedding
        return [layer(self.args.table_rows, self.args.width) for _ in NAMES]

    def _optimizer(self) -> Any:
        import keras

        from tfos import optimizers

        module = optimizers if self.args.layers == "tfos" else keras.optimizers
        return getattr(module, self.args.optimizer)(0.01)

    def _fit(self, ctx: Any, batch_size: int) -> dict[str, float]:
        """Medians over the epochs after the first, and the chief's own processor time."""
        import keras

        with ctx.strategy.scope():
            inputs = {name: keras.Input((), dtype="int32", name=name) for name in NAMES}
            user, item = (
                table(each) for table, each in zip(self._tables(), inputs.values(), strict=True)
            )
            product = keras.ops.sum(user[:, 1:] * item[:, 1:], axis=1, keepdims=True)
            output = user[:, :1] + item[:, :1] + product
            model = keras.Model(inputs, output)
            model.compile(self._optimizer(), "mse")
        marks: list[tuple[float, float]] = []

        def mark(epoch: int, logs: Any) -> None:
            marks.append((time.monotonic(), time.process_time()))

        callback = keras.callbacks.LambdaCallback(on_epoch_begin=mark, on_epoch_end=mark)
        dataset = ctx.dataset("train", batch_size, features=list(NAMES), label="y")
        history = ctx.fit(model, dataset, self.args.epochs, callbacks=[callback])
        pairs = list(zip(marks[2::2], marks[3::2], strict=True))
        secs = statistics.median(end[0] - begin[0] for begin, end in pairs)
        cpu = statistics.median(end[1] - begin[1] for begin, end in pairs)
        return {
            "rows_per_sec": self.args.rows / secs,
            "chief_cpu": cpu / secs,
            "chief_us_per_step": cpu / (self.args.rows / batch_size) * 1e6,
            "loss": history.history["loss"][-1],
        }

    def _step_parts(self, ctx: Any, batch_size: int) -> dict[str, float]:
        """Milliseconds of one worker for each step, with one part of it more at a time."""
        import tensorflow as tf

        with ctx.strategy.scope():
            tables, optimizer = self._tables(), self._optimizer()
            for table in tables:
                table.build()
            weights = [weight for table in tables for weight in table.weights]
            optimizer.build(weights)
        values = [weight.value for weight in weights]

        def loss_of(features: Any, label: Any) -> Any:
            user, item = (table(features[name]) for table, name in zip(tables, NAMES, strict=True))
            dot = tf.reduce_sum(user[:, 1:] * item[:, 1:], axis=1)
            return ctx.mean((user[:, 0] + item[:, 0] + dot - label) ** 2)

        def data(features: Any, label: Any) -> Any:
            return tf.reduce_max(label) + sum(
                tf.cast(tf.reduce_max(each), tf.float32) for each in features.values()
            )

        def lookup(features: Any, label: Any) -> Any:
            found = (table(features[name]) for table, name in zip(tables, NAMES, strict=True))
            return sum(tf.reduce_max(each) for each in found) + tf.reduce_max(label)

        def gradients(features: Any, label: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(features, label)
            slices = tape.gradient(loss, values)
            return loss + sum(tf.reduce_max(each.values) for each in slices)

        def update(features: Any, label: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(features, label)
            optimizer.apply(tape.gradient(loss, values), weights)
            return loss

        dataset = ctx.dataset("train", batch_size, features=list(NAMES), label="y")
        workers = max(1, ctx.num_workers)
        taken: dict[str, list[float]] = {}
        for turn in range(self.args.epochs):
            for step in (data, lookup, gradients, update):
                begun = time.monotonic()
                ctx.run_epoch(step, dataset)
                secs = time.monotonic() - begun
                if turn:  # the first traces, and reads from disk
                    each = 1000 * workers * secs * batch_size / self.args.rows
                    taken.setdefault(step.__name__, []).append(each)
        return {name: statistics.median(each) for name, each in taken.items()}
