"""The app on its way to train(): what its code names goes along, but for what is the driver's."""

from __future__ import annotations

import pickle
import threading

import pytest

import tfos
from tfos.app import FunctionApp
from tfos.driver.pickled import pickled

pytest_plugins = ["sessions"]
pytestmark = pytest.mark.spark


def cells(spark):
    """An app whose class, like one of a notebook, travels with all that its methods name."""
    frame = spark.range(5)
    rate = 7

    class App(tfos.TFOnSparkApp):
        def pre_train(self, _):
            self.total = spark.range(9).count() + spark.sparkContext.defaultParallelism
            return frame.where(frame.id > 1)

        def train(self, ctx):
            return {"session": lambda: spark.range(3), "frame": lambda: frame["id"], "rate": rate}

    return App()


@pytest.fixture
def arrived(spark):
    app = cells(spark)
    app.pre_train(spark)
    return pickle.loads(pickled(app)["app"])


def test_code_that_names_the_session_and_frames_travels(arrived):
    assert (arrived.total, arrived.train(None)["rate"]) == (11, 7)


@pytest.mark.parametrize(
    ("use", "told"), [("session", r"SparkSession\.range: "), ("frame", r"DataFrame\['id'\]: ")]
)
def test_in_train_they_say_where_they_are(arrived, use, told):
    with pytest.raises(tfos.AppError, match=told + "Spark's objects are on the driver"):
        arrived.train(None)[use]()


@pytest.mark.parametrize("value", ["frame", "lock"])
def test_an_attribute_that_cannot_travel_is_an_error_all_the_same(spark, value):
    app = cells(spark)
    app.kept = spark.range(2) if value == "frame" else threading.Lock()
    with pytest.raises(tfos.AppError, match=r"attribute self\.kept \((DataFrame|lock)\)"):
        pickled(app)


def test_a_function_that_trains_has_no_use_for_them(spark):
    with pytest.raises(tfos.AppError, match=r"^train\(\) cannot be pickled, with what it names"):

        def train(ctx):
            return spark.range(3).count()

        pickled(FunctionApp(train, None))
