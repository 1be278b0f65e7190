"""The same models in JAX, in each process of a gang.

bin/pl_submit --strategy gang --num-workers 2 examples/a9a_logistic/with_jax.py --data DIR/a9a
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from app import A9aLogistic
from quality import quality


class A9aJax(A9aLogistic):
    def train(self, ctx: Any) -> dict[str, float]:
        """Trains, or goes on from the newest checkpoint, and evaluates in rank 0."""
        import jax
        import jax.numpy as jnp
        from jax.experimental.multihost_utils import process_allgather
        from jax.flatten_util import ravel_pytree

        args = self.args
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(ctx.master, ctx.world_size, ctx.rank)
        train = ctx.dataset("train", args.batch_size // ctx.world_size, label="label")
        steps = args.epochs * train.steps_per_epoch
        penalty = 0.5 / (args.cost * self.train_rows)
        weights, unravel = ravel_pytree(initial(train.columns[0].length, args.hidden))
        kernels, _ = ravel_pytree(
            [(np.ones_like(w), np.zeros_like(b)) for w, b in unravel(weights)]
        )
        # the weights of all layers, and Adam's two moments
        state = np.stack([weights, np.zeros_like(weights), np.zeros_like(weights)])
        step = ctx.checkpoint.step
        newest = ctx.checkpoint.newest()
        if newest is not None:
            state = np.load(newest / "state.npy")

        def losses(weights: Any, features: Any, label: Any) -> Any:
            logits = scores(unravel(weights), features)
            return jnp.sum(jnp.logaddexp(0, logits) - label * logits)

        gradient = jax.jit(jax.grad(losses))

        def adam(state: Any, slope: Any, step: Any) -> Any:
            weights, mean, square = state
            rate = 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            upright = mean / (1 - 0.9 ** (step + 1))
            scale = jnp.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-7
            return jnp.stack([weights - args.learning_rate * rate * upright / scale, mean, square])

        update = jax.jit(adam)

        saved = -1

        def save() -> None:
            nonlocal saved
            if saved == step:  # at the end of an epoch one may have been due as well
                return
            saved = step
            with tempfile.TemporaryDirectory() as local:
                np.save(Path(local, "state.npy"), np.asarray(state))
                ctx.checkpoint.save_dir(local, step)

        while train.epoch < args.epochs:
            for features, label in train.numpy():
                mine = gradient(state[0], features["features"].astype(np.float32), label)
                # the shares of a last batch may differ by a row
                sums, rows = process_allgather((mine, np.float32(len(label))))
                slope = sums.sum(0) / rows.sum()
                slope += 2 * penalty * np.asarray(kernels * state[0])
                state = update(state, slope, step)
                step += 1
                if ctx.checkpoint.due():
                    save()
            if ctx.is_chief:
                save()
        if not ctx.is_chief:
            return {}
        ((features, label),) = ctx.dataset("test", None, label="label").whole().numpy()
        return quality(np.asarray(scores(unravel(state[0]), features["features"])), label)


def initial(width: int, hidden: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer, the same in all processes."""
    below = []
    if hidden:
        limit = (6 / (width + hidden)) ** 0.5  # Glorot's
        kernel = np.random.default_rng(0).uniform(-limit, limit, (width, hidden))
        below = [(kernel.astype(np.float32), np.zeros(hidden, np.float32))]
    return [*below, (np.zeros((hidden or width, 1), np.float32), np.zeros(1, np.float32))]


def scores(layers: Any, features: Any) -> Any:
    """The logit of each row."""
    *below, (last, bias) = layers
    for kernel, offset in below:
        features = ((features @ kernel) + offset).clip(0)
    return (features @ last + bias)[:, 0]
