"""Runs apps one after the other in one Spark session, as a notebook does.

    python in_session.py MASTER < [{"file": app.py, "app": class, "args": [...], "job": {...}}, ...]

Prints for each a line of JSON: {"error": what run() raised, or null, "kind": its class}.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession


def main(master: str) -> None:
    spark = SparkSession.builder.master(master).config("spark.ui.enabled", "false").getOrCreate()
    for request in json.load(sys.stdin):
        file = Path(request["file"])
        sys.path.insert(0, str(file.parent))
        app = getattr(importlib.import_module(file.stem), request["app"])
        said: dict[str, str | None] = {"error": None, "kind": None}
        try:
            app().run(spark, request["args"], **request["job"])
        except Exception as error:
            said = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(said), flush=True)
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
