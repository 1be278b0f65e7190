"""The example of sparse logistic regression, without a cluster."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sparse_lr"


@pytest.fixture(scope="module")
def app():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield importlib.import_module("app")
    sys.modules.pop("app", None)  # other apps have this name too


def test_rows_that_have_as_many_features_are_a_matrix(app):
    """As a feed has them, whose arrays are all of one length."""
    ragged = tf.compat.v1.ragged.RaggedTensorValue(np.arange(4), np.array([0, 2, 4]))
    for column in (np.arange(4).reshape(2, 2), ragged):
        values, lengths = app.flat(column)
        assert values.tolist() == [0, 1, 2, 3]
        assert lengths.tolist() == [2, 2]


def test_area_under_the_curve(app):
    # the scores of the negative: 0 and 2, of the positive: 1 and 2
    assert app.area(np.array([[1, 0], [0, 1], [1, 1]])) == (1 + 0 + 1 + 0.5) / 4
