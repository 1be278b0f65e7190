"""Getting the app's own modules to the executors."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def ship_modules(spark: SparkSession, module_name: str, run_id: str) -> None:
    """Makes a module, app.py, and the modules and packages beside it importable on every executor.

    Code that lives in an installed package, or in a notebook, needs nothing shipped.
    """
    root = _source_root(module_name)
    if root is None:
        return
    from pyspark import SparkFiles

    # Spark serves the file from where it lies for as long as the application lives, and removes
    # this directory with it
    bundle = Path(SparkFiles.getRootDirectory()).parent / f"tfos-app-{run_id}.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        for file in sorted(sources(root)):
            archive.write(file, file.relative_to(root))
    spark.sparkContext.addPyFile(str(bundle))


def _source_root(module_name: str) -> Path | None:
    """The directory from which the module was imported, unless it is an installed one."""
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None or not Path(file).exists():
        return None
    path = Path(file).resolve()
    # app.py, package/module.py or package/__init__.py: what the outermost name is found in
    depth = module_name.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    installed = {"site-packages", "dist-packages"} & set(root.parts)
    return None if installed else root


def sources(root: Path) -> list[Path]:
    """The modules of a directory, and of the packages in it."""
    found = list(root.glob("*.py"))
    for package in root.iterdir():
        if (package / "__init__.py").is_file():
            found.extend(package.rglob("*.py"))
    return found
