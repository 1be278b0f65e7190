"""Steps in Python beside a store, as ctx.run_epoch() makes them under --strategy kv."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from kv_servers import client, servers
from zoo import ROWS, TRAIN

from tfos.training.stored.epochs import PythonProgram
from tfos.training.stored.lanes import Aside
from tfos.training.stored.orders import Order
from tfos.training.stored.store import ModelStore

pytest_plugins = ["world_fixtures"]
pytestmark = [pytest.mark.usefixtures("quick_tensorflow"), pytest.mark.timeout(60)]
FIRST_UNIT = 7


@pytest.fixture(params=["at once", "aside"])
def store(request):
    with servers() as started, contextlib.ExitStack() as stack:
        opened = [stack.enter_context(client(started)) for _ in range(3)]
        made = ModelStore(opened[0], first_unit=FIRST_UNIT)
        if request.param == "aside":
            made.ahead, made.behind = Aside(opened[1], "pulls"), Aside(opened[2], "pushes")
        yield made


def test_each_row_is_seen_once_and_counted(world, store):
    seen = []

    def step(features, y):
        tags = features["tags"]
        lengths = np.diff(tags.row_splits)
        assert len(lengths) == len(y) and lengths.sum() == len(tags.values)
        seen.extend(features["id"].tolist())
        return y.mean()

    program = PythonProgram(step, world.dataset(features=["id", "tags"]), store)
    (total,) = program.run([0, 8, ROWS], Order(store.next_unit()))
    assert seen == TRAIN["id"][8:].tolist()
    assert total == pytest.approx(TRAIN["y"][8:].sum())
    assert store.counted([FIRST_UNIT]) == ROWS - 8


def test_rows_of_a_step_that_fails_are_not_counted(world, store):
    def step(features, y):
        if len(calls) == 2:
            raise OSError("full")
        calls.append(len(y))

    calls: list[int] = []
    program = PythonProgram(step, world.dataset(features=["id"]), store)
    with pytest.raises(OSError, match="full"):
        program.run([0, 0, ROWS], Order(store.next_unit()))
    assert store.counted([FIRST_UNIT]) == sum(calls)
    calls.clear()
    calls.extend([0] * 3)
    (total,) = program.run([0, 0, ROWS], Order(store.next_unit()))
    assert total == 0.0
    assert store.counted([FIRST_UNIT + 1]) == ROWS == sum(calls)
