"""The public names of tfos."""

from __future__ import annotations

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
    public = {name for name in vars(tfos) if not name.startswith("_")}
    assert public - modules == set(tfos.__all__) - {"__version__"}


def test_every_exception_is_a_tfos_error_with_a_docstring():
    for name in tfos.__all__:
        value = getattr(tfos, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            assert issubclass(value, tfos.TFOSError)
            assert value.__doc__


def test_run_failed_carries_the_result():
    error = tfos.RunFailed("chief 0 on h: x", {"status": "failed"})
    assert (str(error), error.result) == ("chief 0 on h: x", {"status": "failed"})
