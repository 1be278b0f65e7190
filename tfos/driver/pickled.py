"""The app on its way to the processes that train."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

from tfos.errors import AppError
from tfos.runtime.driver_only import DriverOnly

if TYPE_CHECKING:
    from tfos.app import TFOnSparkApp


def pickled(app: TFOnSparkApp) -> dict[str, bytes]:
    """The app, and what pre_train() set on it. Raises AppError for what cannot be pickled."""
    app = copy.copy(app)
    vars(app).pop("fit_data", None)  # a DataFrame stays on the driver
    state = {
        name: value for name, value in vars(app).items() if name not in app._not_from_pre_train
    }
    try:
        # what is set on self is meant to be had in train(), what the code names may not be
        attributes = _dumps(state, is_used=True)
        code = _dumps(app, is_used=app._only_trains)
    except Exception as error:
        if app._only_trains:
            raise AppError(
                f"{app._run_name}() cannot be pickled, with what it names of the code around it,"
                f" and so cannot reach the processes that train: {error}"
            ) from error
        for name, value in state.items():
            try:
                _dumps(value, is_used=True)
            except Exception as reason:
                raise AppError(
                    f"attribute self.{name} ({type(value).__name__}), set by pre_train(), cannot be"
                    f" pickled and so cannot reach train(): {reason}; keep it in a local variable,"
                    " or delete it before pre_train() returns"
                ) from reason
        raise AppError(f"{type(app).__name__} cannot be pickled: {error}") from error
    return {"app": code, "state": attributes}


def _dumps(value: Any, is_used: bool) -> bytes:
    """is_used: whether an object of the driver is an error, else DriverOnly takes its place."""
    from pyspark import cloudpickle

    kinds = _of_the_driver()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, kinds):
                return super().reducer_override(value)
            name = type(value).__name__
            if is_used:
                raise pickle.PicklingError(f"a {name} of Spark's is on the driver alone")
            return DriverOnly, (name,)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _of_the_driver() -> tuple[type, ...]:
    from py4j.java_gateway import JavaObject
    from pyspark import RDD, SparkContext
    from pyspark.sql import Column, DataFrame, SparkSession

    # of Spark Connect the session alone is no subclass; its module needs packages of its own
    connect = sys.modules.get("pyspark.sql.connect.session")
    sessions = (SparkSession,) if connect is None else (SparkSession, connect.SparkSession)
    return (SparkContext, *sessions, DataFrame, Column, RDD, JavaObject)
