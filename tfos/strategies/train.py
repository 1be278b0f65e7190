"""How the user's train(ctx) is run, under every strategy on TensorFlow."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

from tfos.context import TrainContext
from tfos.errors import LakeError, StoreError
from tfos.feeding.reads import serve_reads
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.training.runner import Runner


def warm_up() -> None:
    """What TensorFlow and Keras do at their first use. Not before a process has met others."""
    tf.function(lambda x: x + 1, autograph=False)(tf.constant(1))
    keras.layers.Dense(1).build((None, 1))


def train(host: Host, runner: Runner) -> Trained:
    """Runs the user's train(ctx)."""
    app = host.app()
    serve_reads(host.reader())
    host.take_sigterm_back()
    host.ready()
    # fetching a checkpoint may take long, and so may restoring it; one may have to fetch more than
    # the others
    with host.reports.quiet():
        context = TrainContext(host, runner)
        check_agreement(runner, context.checkpoint.step)
    if host.is_chief:
        host.save_on_demand(context.checkpoint.hurry)
    host.reports.progress({"phase": "train() begins"})
    try:
        returned = app.train(context)
        context.check_fitted()
        if app._exports_by_itself:
            context.export_by_itself()
    except BaseException:
        # what train() raised is the root cause
        with contextlib.suppress(LakeError, StoreError), host.reports.quiet():
            context.close()
        raise
    with host.reports.quiet():
        context.close()
        check_agreement(runner, 0)  # none goes while another one still trains
    return Trained.of(returned, context.reported, context.model_uri)


def check_agreement(runner: Runner, value: int) -> None:
    """Waits for the processes in step, and raises AbortedError unless all have this value."""
    values = runner.gather(value)
    if set(values) != {value}:
        raise tf.errors.AbortedError(
            None, None, f"the workers have read checkpoints of different steps: {values}"
        )
