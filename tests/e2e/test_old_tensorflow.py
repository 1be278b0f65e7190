"""tfos on TensorFlow 2.15, Keras 2 and Spark 3.5: sessions of TF1, and Estimator."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import APPS, DATA, ROOT, Submitted
from old_tensorflow import NOT_FOR_IT, old_tensorflow

pytestmark = [
    pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("no_leaks"),
    pytest.mark.timeout(1200),
]  # fmt: skip
WIDE_DEEP = ROOT / "examples" / "wide_deep_estimator" / "app.py"
STRATEGY = ("--strategy", "between-graph", "--num-ps", 1, "--num-workers", 2)
# predicts what the model exported by a run says of its feed's file
_PREDICT = """
import json, sys
import tfos
from pyspark.sql import SparkSession
sys.path.insert(0, sys.argv[3])
import app
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
rows = tfos.predict(app._read(spark, sys.argv[2]), sys.argv[1])
right = rows.where("prediction.class_ids = label").count()
low, high = rows.selectExpr("min(prediction.logistic)", "max(prediction.logistic)").first()
print(json.dumps({"accuracy": right / rows.count(), "low": low, "high": high}))
"""


@pytest.fixture(scope="module")
def venv() -> Path:
    return old_tensorflow()


def run(venv: Path, *argv: object) -> Submitted:
    """A command of the environment's Python."""
    env = {name: value for name, value in os.environ.items() if name not in NOT_FOR_IT}
    python = str(venv / "bin" / "python")
    ended = subprocess.run(
        [python, *map(str, argv)], capture_output=True, text=True, timeout=280,
        env={**env, "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python},
    )  # fmt: skip
    return Submitted(ended.returncode, ended.stdout, ended.stderr)


def submit(venv: Path, *argv: object) -> Submitted:
    return run(venv, "-m", "tfos.cli", "--json", *argv)


def succeeded(ended: Submitted) -> dict[str, Any]:
    assert ended.status == 0, ended.stderr
    return ended.result


def test_sessions(venv: Path, tmp_path: Path) -> None:
    app = APPS / "tf1_line.py"
    ended = submit(venv, *STRATEGY, "--lake", tmp_path, app, "--steps", 1000, "--sync")
    metrics = succeeded(ended)["metrics"]
    assert metrics["weights"] == pytest.approx([3, 2], abs=0.1)
    # two gradients make a step, mostly one of each worker
    assert sum(metrics["counts"]) >= 1990
    assert min(metrics["counts"]) > 250


def test_wide_and_deep_estimator(venv: Path, tmp_path: Path) -> None:
    data = DATA / "a9a" / "a9a"
    if not data.is_file():
        pytest.skip(f"the a9a data is not at {data}")
    ended = submit(venv, *STRATEGY, "--lake", tmp_path, WIDE_DEEP, "--data", data)
    result = succeeded(ended)
    metrics = result["metrics"]
    assert metrics["test_accuracy"] >= 0.845
    assert metrics["test_auc"] >= 0.898
    assert result["checkpoints"]["step"] >= 32_561 * 10 // 128
    ended = run(venv, "-c", _PREDICT, result["model"], f"{data}.t", WIDE_DEEP.parent)
    predicted = json.loads(succeeded_text(ended))
    assert predicted["accuracy"] == pytest.approx(metrics["test_accuracy"], abs=1e-4)
    assert 0 <= predicted["low"] < predicted["high"] <= 1


def succeeded_text(ended: Submitted) -> str:
    assert ended.status == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def test_strategies_that_need_keras_3_say_so(venv: Path, tmp_path: Path) -> None:
    app = ROOT / "examples" / "a9a_logistic" / "app.py"
    ended = submit(venv, "--strategy", "single", "--lake", tmp_path, app)
    assert ended.status == 1
    assert "ctx.fit() trains models of Keras 3; here is Keras 2.15.0" in ended.last_words
    assert "use --strategy between-graph" in ended.last_words
