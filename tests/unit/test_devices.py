"""Which GPUs a role's process sees; tests/e2e/test_gpus.py has Spark assign some."""

from __future__ import annotations

import pytest

from tfos.runtime.devices import visible
from tfos.spec.roles import Task
from tfos.spec.topology import find

NONE = {"CUDA_VISIBLE_DEVICES": "-1"}
ALL: dict[str, str] = {}


def seen(strategy, role, assigned):
    return visible(find(strategy).of({}), Task(role, 0), assigned)


@pytest.mark.parametrize("assigned", [None, ["0"]])
@pytest.mark.parametrize("role", ["ps", "chief"])
def test_what_only_keeps_or_coordinates_sees_none(role, assigned):
    assert seen("ps", role, assigned) == NONE


@pytest.mark.parametrize(
    ("strategy", "role"),
    [
        ("ps", "worker"), ("ps", "evaluator"), ("single", "chief"), ("multi-worker", "chief"),
        ("multi-worker", "worker"),
    ],
)  # fmt: skip
def test_what_computes_sees_those_that_spark_assigned(strategy, role):
    assert seen(strategy, role, None) == ALL
    assert seen(strategy, role, ["2", "3"]) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert seen(strategy, role, ["GPU-1f3c"]) == {"CUDA_VISIBLE_DEVICES": "GPU-1f3c"}
