"""The public names of tfos."""

from __future__ import annotations

import importlib.util

import pytest

import tfos
import tfos.errors


def test_all_is_sorted_and_without_repeats():
    assert sorted(set(tfos.__all__)) == tfos.__all__


def test_each_name_is_there():
    assert [name for name in tfos.__all__ if not hasattr(tfos, name)] == []


def test_every_exception_is_public():
    found = {
        name
        for name, value in vars(tfos.errors).items()
        if isinstance(value, type) and issubclass(value, tfos.TFOSError)
    }
    assert found <= set(tfos.__all__)


def test_nothing_else_is_public():
    modules = {name for name, value in vars(tfos).items() if type(value) is type(tfos)}
    public = {name for name in dir(tfos) if not name.startswith("_")}
    annotations = {"TrainContext", "FeedDataset"}
    assert public - modules - {"TYPE_CHECKING"} == set(tfos.__all__) - {"__version__"} | annotations


def test_names_for_annotations():
    from tfos.context import TrainContext
    from tfos.feeding.dataset import FeedDataset

    assert (tfos.TrainContext, tfos.FeedDataset) == (TrainContext, FeedDataset)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        tfos.nosuch  # noqa: B018


def test_functions_are_not_shadowed_by_modules():
    """An import of tfos.runs would put the module in the function's place."""
    names = {name for name in tfos.__all__ if not isinstance(getattr(tfos, name), type)}
    assert {"predict", "run", "runs"} <= names
    assert not [name for name in names if importlib.util.find_spec(f"tfos.{name}")]


def test_every_exception_is_a_tfos_error_with_a_docstring():
    for name in tfos.__all__:
        value = getattr(tfos, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            assert issubclass(value, tfos.TFOSError)
            assert value.__doc__


def test_run_failed_carries_the_result():
    error = tfos.RunFailed("chief 0 on h: x", {"status": "failed"})
    assert (str(error), error.result) == ("chief 0 on h: x", {"status": "failed"})
