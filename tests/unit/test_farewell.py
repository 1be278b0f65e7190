"""How processes in step part: what one has for the others is there until they have read it."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import pytest

from tfos.runtime.backend import Trained
from tfos.spec.roles import Task
from tfos.strategies.multi_worker import backend

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def host_of(monkeypatch):
    """The host of a task whose training is over as it begins."""
    monkeypatch.setattr(backend, "MultiWorkerRunner", lambda *args: None)
    monkeypatch.setattr(backend, "train", lambda host, runner: Trained.of(None, {}, None))

    def make(task: Task) -> SimpleNamespace:
        return SimpleNamespace(
            task=task, is_chief=task.role == "chief", addresses={},
            spec=SimpleNamespace(hang_secs=0), meeting=contextlib.nullcontext,
            ask_to_save_at_sigterm=lambda: None,
        )  # fmt: skip

    return make


def test_the_chief_whose_end_is_the_runs_leaves_at_once(host_of, monkeypatch):
    monkeypatch.setattr(backend, "_FAREWELL_SECS", 3600.0)
    backend.MultiWorker().run(host_of(Task("chief", 0)))


def test_a_worker_stays_for_others_to_read(host_of, monkeypatch):
    monkeypatch.setattr(backend, "_FAREWELL_SECS", 0.5)
    begun = time.monotonic()
    backend.MultiWorker().run(host_of(Task("worker", 0)))
    assert time.monotonic() - begun >= 0.5
