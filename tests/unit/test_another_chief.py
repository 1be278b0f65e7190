"""A chief that dies, and another one in its place, on servers that go on; units are made here."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from kv_servers import SECRET, client, servers
from worlds import Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import ROWS, functional

from tfos.training.stored import runners
from tfos.training.stored.coordinator import COUNTED, Coordinator
from tfos.training.stored.journal import Journal
from tfos.training.stored.runners import ChiefRunner, _Counted
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore

pytest_plugins = ["world_fixtures"]
pytestmark = [pytest.mark.usefixtures("quick_tensorflow"), pytest.mark.timeout(120)]


class Chief(ChiefRunner):
    """Of one worker, which makes a unit when it is submitted: two are under way."""

    def submit(self, function, *args):
        bounds, order = args
        value = function.run([int(each) for each in bounds], order)
        pending = SimpleNamespace(fetch=lambda: value)
        if function.name not in COUNTED:
            return pending
        self._under_way.add(order.number)
        return _Counted(pending, lambda: self._under_way.discard(order.number))


@pytest.fixture
def chiefs(world, monkeypatch):
    """Gives the world's context with another chief at each call; `loads` of them."""
    opened, listeners, loads = [], [], []
    monkeypatch.setattr(runners, "_SHARE", 1)  # it tells of each unit, whatever that takes

    def open_client(started):
        opened.append(client(started))
        return opened[-1]

    with servers(2, storage=world.lake) as started:

        def make(life):
            store = ModelStore(open_client(started), first_unit=life << 32)
            listeners.append(socket.create_server(("127.0.0.1", 0)))
            units = Coordinator(listeners[-1], SECRET, f"1.{life}")
            snapshots = Snapshots(open_client(started), world.lake, f"1.{life}", lambda: None)
            load = snapshots.load
            snapshots.load = lambda state: loads.append(life) or load(state)
            units.wait_asking = lambda workers: None
            return Chief(store, 1, units, snapshots, Journal(store.client, f"1.{life}"))

        world.loads = loads
        world.chief = lambda life: world.context(runner=make(life))
        yield world
        for each in [*opened, *listeners]:
            each.close()


def model_of():
    model = functional(metrics=["mae"])
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["mae"])
    return model


def callbacks_of():
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=0, min_delta=10.0, min_lr=1e-4)
    ]


def fit(world, life, *more, **options):
    """fit() of the chief of that number: the model, and its History."""
    model, context = model_of(), world.chief(life)
    try:
        history = context.fit(
            model, world.dataset(), 3, steps_per_execution=1, validation=world.dataset("eval"),
            callbacks=[*callbacks_of(), *more], **options,
        )  # fmt: skip
    finally:
        world.saver.wait()
    return model, history


@pytest.mark.parametrize("options", [{}, {"steps_per_epoch": 5}], ids=str)
@pytest.mark.parametrize(
    ("when", "repeated"),
    [
        ({"on_epoch_begin": 0}, 0),
        ({"on_train_batch_end": 0}, 1),
        ({"on_train_batch_end": 9}, 1),
        ({"on_test_begin": 1}, 0),
        ({"on_epoch_end": 1}, 0),
        ({"on_epoch_begin": 2}, 0),
        ({"on_train_end": 0}, 0),
    ],
    ids=str,
)
def test_goes_on_where_the_one_before_was(chiefs, when, repeated, options, tmp_path):
    with pytest.raises(Interrupted):
        fit(chiefs, 1, interrupt(**when), **options)
    model, history = fit(chiefs, 2, **options)
    assert chiefs.loads == [1], "the second one has loaded no checkpoint"
    feed = chiefs.ledger.as_json()["train"]
    steps = 3 * options.get("steps_per_epoch", 7)
    # seven steps go through the feed, the last of them with two rows
    assert sum(feed["rows_trained"]) == (3 * ROWS if not options else 8 * steps - 2 * 6)
    # the unit whose callback has raised was not told of, and the next one was made by then
    units = sum(feed["rows_repeated"])
    assert (units > 0) == bool(repeated) and units <= 2 * 8 * repeated
    assert len(feed["rows_repeated"]) == len(feed["rows_trained"])
    assert len(history.history["loss"]) == len(history.history["val_loss"]) == 3
    assert chiefs.saver.step <= steps
    assert chiefs.lake.newest_checkpoint() is not None
    newest = chiefs.lake.checkpoint_state(chiefs.lake.newest_checkpoint())
    assert newest["step"] == steps, "the end of fit is in a checkpoint, whoever made it"
    if not repeated:
        expected = fresh(chiefs, tmp_path, options)
        assert_same_weights(model, expected[0], 1e-5)
        assert_same_history(history, expected[1])
        assert int(model.optimizer.iterations) == steps


def fresh(world, tmp_path, options):
    """The same without an interruption, in variables."""
    model = model_of()
    alone = World(world.reader, tmp_path / "alone")
    history = alone.fit(
        model, 3, validation=alone.dataset("eval"), callbacks=callbacks_of(), **options
    )
    return model, history


def test_is_given_what_sections_have_given(chiefs):
    """Evaluations and predictions are not made again, by workers that are past them."""
    first, dataset = chiefs.chief(1), chiefs.dataset()
    model = model_of()
    first.fit(model, dataset, 1)
    logs, outputs = first.evaluate(model, dataset), first.predict(model, dataset)
    second, model = chiefs.chief(2), model_of()
    second._runner.submit = None  # nothing is
    second.fit(model, dataset, 1)
    assert second.evaluate(model, dataset) == logs
    np.testing.assert_array_equal(second.predict(model, dataset), outputs)
    assert chiefs.loads == [1]


@pytest.mark.parametrize("what", ["epoch", "kv", "save"])
def test_loops_of_ones_own_go_back_to_the_checkpoint(chiefs, what):
    context, model = chiefs.chief(1), model_of()
    context.fit(model, chiefs.dataset(), 1)
    chiefs.saver.wait()
    if what == "epoch":
        context.run_epoch(lambda features, y: 0.0, chiefs.dataset(batch_size=10))
    elif what == "kv":
        context.kv.table("mine", 1).add([1], [[1.0]])
    else:
        context.checkpoint.save(100, {"epoch": 1})
        context.checkpoint.wait()
    second = chiefs.chief(2)
    assert chiefs.loads == [1, 2]
    assert second.checkpoint.step == (100 if what == "save" else 7)
