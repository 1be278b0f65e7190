"""Getting the app's own modules to the executors."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import types
import zipfile
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfos.driver.cluster import cluster_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def ship_modules(spark: SparkSession, module_name: str) -> None:
    """Makes a module, app.py, and the modules and packages beside it importable on every executor.

    Code that lives in an installed package, or in a notebook, needs nothing shipped.
    """
    root = _source_root(module_name)
    if root is not None:
        archive = archive_of(root, sources(root, _namespaces(root)))
        name = f"tfos-app-{hashlib.sha256(archive).hexdigest()[:16]}.zip"
        cluster_of(spark).ship(name, archive)


def tell_of_missing(spark: SparkSession, module_name: str, tell: Callable[[str], None]) -> None:
    """Tells of modules that the app imports from elsewhere, and that the executors do not find.

    It may be that train() does without them, or makes them importable by itself.
    """
    module = sys.modules[module_name]
    root = _source_root(module_name)
    foreign = _foreign(_names_of(module, root), root)
    for name in _not_found(spark, list(foreign)):
        tell(
            f"warning: module {name!r} is imported from {foreign[name]}, which is not shipped, and"
            " the executors do not find it: put it beside app.py, or pass it with --py-files"
        )


def archive_of(root: Path, files: Collection[Path]) -> bytes:
    """A zip file of modules below `root`, with an entry for each folder.

    Python finds a folder without __init__.py in an archive by its entry alone.
    """
    within = {file.relative_to(root): file for file in files}
    folders = {folder for path in within for folder in path.parents} - {Path()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
        for folder in sorted(folders):
            archive.writestr(zipfile.ZipInfo(f"{folder.as_posix()}/"), b"")
        for path, file in sorted(within.items()):
            archive.write(file, path)
    return buffer.getvalue()


def _source_root(module_name: str) -> Path | None:
    """The directory from which the module was imported, unless it is an installed one."""
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None or not Path(file).exists():
        return None
    path = Path(file).resolve()
    # app.py, package/module.py or package/__init__.py: what the outermost name is found in
    depth = module_name.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    return None if _is_installed(root) else root


def _is_installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts))


def sources(root: Path, imported: Collection[str] = ()) -> list[Path]:
    """The modules of a directory, and of the packages in it.

    A folder without __init__.py is a package for Python (PEP 420), and for people as often a place
    for data or another project. It is one here when a module that is found has an import of it, be
    it inside a function, or when its name is in `imported`.
    """
    found = list(root.glob("*.py"))
    folders = {}
    for folder in root.iterdir():
        if (folder / "__init__.py").is_file():
            found.extend(folder.rglob("*.py"))
        elif folder.name.isidentifier() and folder.is_dir():
            folders[folder.name] = folder
    names, looked_at = set(imported), 0
    while folders:
        for file in found[looked_at:]:
            names |= _imports(file)
        looked_at = len(found)
        for name in names & folders.keys():
            found.extend(_modules_below(folders.pop(name)))
        if looked_at == len(found):
            break
    return found


def _modules_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix == ".py" and path.is_file():
            yield path
        elif path.name.isidentifier() and path.is_dir():
            yield from _modules_below(path)


def _imports(file: Path) -> set[str]:
    """The outermost names of what a module imports, wherever in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # who imports it is told by Python
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _namespaces(root: Path) -> set[str]:
    """The folders of a directory that this process has imported as packages, however it did."""
    return {
        name
        for name, module in list(sys.modules.items())
        if str(root / name) in list(getattr(module, "__path__", None) or [])
    }


def _names_of(module: types.ModuleType, root: Path | None) -> set[str]:
    """The outermost names of what the app imports; in a notebook, of what its names stand for."""
    if root is not None:
        return {name for file in sources(root, _namespaces(root)) for name in _imports(file)}
    if getattr(module, "__file__", None):
        return set()
    owners = [
        value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", "")
        for value in list(vars(module).values())
    ]
    return {owner.partition(".")[0] for owner in owners if isinstance(owner, str)}


def _foreign(names: Collection[str], root: Path | None) -> dict[str, str]:
    """Where this process has those of the modules from that are neither Python's, nor installed,
    nor ours, nor below `root`."""
    found = {}
    for name in sorted(set(names) - sys.stdlib_module_names - {"__main__", "tfos"}):
        module = sys.modules.get(name)
        places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or [])]
        for place in [Path(each).resolve() for each in places if each][:1]:
            is_shipped = root is not None and root in place.parents
            if not _is_installed(place) and not is_shipped:
                found[name] = str(place)
    return found


def _not_found(spark: SparkSession, names: list[str]) -> list[str]:
    """Those of the modules that an executor does not find."""
    if not names:
        return []

    def look(_: Any) -> list[str]:
        return [name for name in names if find_spec(name) is None]

    return cluster_of(spark).tasks(1).mapPartitions(look).collect()
