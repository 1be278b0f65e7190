"""The image, built from Debian's packages and PyPI's, and what runs in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from image_engine import BASE, ImageEngine, require

pytest_plugins = ["s3"]
pytestmark = [pytest.mark.full, pytest.mark.serial, pytest.mark.timeout(1800)]
TAG = "localhost/tfos:test"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageEngine]:
    require()
    engine = ImageEngine(tmp_path_factory.mktemp("image"))
    try:
        engine.build(TAG)
        yield engine
    finally:
        engine.close()


def test_it_adds_half_of_what_pip_would(engine, record_property):
    added = engine.megabytes(TAG) - engine.megabytes(BASE)
    record_property("tell", f"{added:.0f} MB")
    assert added < 1700  # of 3390: docker/README.md


def test_what_an_app_may_use_is_there(engine, s3):
    """TensorFlow, Keras, Parquet, Arrow, Hive, MLlib, ZooKeeper and the clients of remote lakes."""
    environment = {**s3.environment, "BUCKET": s3.bucket}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options.append(f"--volume={HERE}/in_image.py:/in_image.py:ro")
    told = engine.run(TAG, "python", "/in_image.py", options=tuple(options))
    assert json.loads(told.splitlines()[-1]) == {
        "as_whom": {
            "uid": 185,
            "python": "/opt/tfos/bin/python",
            "pip": "No broken requirements found.",
        },
        "startup": {"uncompiled": [], "status": 0},
        "tensorflow": {"sum": 6.0, "served": [4, 1], "lite": True, "version": True},
        "spark": {"parquet": 4 * 4950, "arrow": 4 * 4950, "hive": 400, "rocksdb": 100, "mllib": 2},
        "zookeeper": {"said": "hello"},
        "lakes": {"s3": 7, "hdfs": True},
    }


def test_an_example_trains_as_a_user_who_may_write_to_tmp_and_the_lake_alone(engine, tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    shutil.chown(lake, 185, 185)
    examples = ("--volume", f"{ROOT}/examples:/examples:ro", "--volume", f"{lake}:/lake")
    told = engine.run(
        TAG, "pl_submit", "--json", "--master", "local[2]", "--strategy", "single", "--lake",
        "/lake", "--run-id", "fm", "/examples/fm_movielens/app.py", "--epochs", "2",
        options=examples,
    )  # fmt: skip
    result = json.loads(told.splitlines()[-1])
    assert result["status"] == "succeeded"
    assert (lake / "fm" / "model" / "COMMIT").exists()
    assert (lake / "fm" / "result.json").stat().st_uid == 185


def test_a_change_of_tfos_is_a_layer_of_seconds(engine, tmp_path, record_property):
    root = tmp_path / "checkout"
    root.mkdir()
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    for name in files.stdout.split("\0"):
        if name.startswith(("tfos/", "docker/")) or "/" not in name:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name:
                shutil.copy2(ROOT / name, root / name)
    with (root / "tfos" / "version.py").open("a") as file:
        file.write("# changed\n")
    begun = time.monotonic()
    engine.build("localhost/tfos:changed", root=root)
    secs = time.monotonic() - begun
    old, new = engine.layers(TAG), engine.layers("localhost/tfos:changed")
    record_property("tell", f"{secs:.1f} s")
    assert len(new) == len(old)
    assert len(set(new) - set(old)) == 1
    assert secs < 60  # 10 on a machine that does nothing else
