"""Fixtures of tests that train in this process: pytest_plugins = ["world_fixtures"]."""

from __future__ import annotations

import pytest
import tensorflow as tf
from helpers import write_feed
from worlds import World
from zoo import COLUMNS, EVAL, EVAL_ROWS, TRAIN, as_lists

from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.lake.run_directory import RunDirectory


@pytest.fixture(scope="module")
def quick_tensorflow():
    """Without graph optimization: it costs these tiny models more than it gains them."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@pytest.fixture(scope="module")
def feeds(tmp_path_factory):
    lake = RunDirectory(str(tmp_path_factory.mktemp("feeds")), "run")
    for name, values, shards in (("train", TRAIN, [20, 30]), ("eval", EVAL, [EVAL_ROWS])):
        write_feed(lake, name, COLUMNS, as_lists(values), shards)
    return FeedReader(lake, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def world(feeds, tmp_path):
    serve_reads(feeds)
    return World(feeds, tmp_path)
