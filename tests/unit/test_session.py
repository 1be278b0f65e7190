"""What a run in a session of the user's leaves as it was."""

from __future__ import annotations

import os
import sys
import types

import pytest

from tfos.driver.session import _our_python, open_session


@pytest.fixture
def nameless(monkeypatch):
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)


def test_environment_in_a_session_of_the_users(nameless):
    conf = types.SimpleNamespace(getAll=lambda: [("spark.tfos.numWorkers", "3")])
    session = types.SimpleNamespace(
        sparkContext=types.SimpleNamespace(getConf=lambda: conf), conf=types.SimpleNamespace()
    )
    before = dict(os.environ)
    with open_session("app", session, {"lake": "/lake"}) as (opened, spec):
        assert opened is session
        assert spec.lake == "/lake"
        assert dict(os.environ) == before
    assert dict(os.environ) == before


class TestPythonOfANewSession:
    def test_is_this_one_while_it_begins(self, nameless):
        with _our_python():
            assert os.environ["PYSPARK_PYTHON"] == sys.executable
        assert "PYSPARK_PYTHON" not in os.environ

    def test_that_the_user_names_stays(self, monkeypatch):
        monkeypatch.setenv("PYSPARK_PYTHON", "/opt/python")
        with _our_python():
            assert os.environ["PYSPARK_PYTHON"] == "/opt/python"
        assert os.environ["PYSPARK_PYTHON"] == "/opt/python"
