"""The packages of an environment; those that are installed as editable become ordinary ones.

An editable install is a .pth file that names a folder, or that imports a finder of modules; both
mean nothing on another machine. Which modules belong to it is what its metadata say, or what the
folder has; where they are is what Python's import system says.
"""

from __future__ import annotations

import json
import os
import pkgutil
import site
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tfos.errors import PreflightError
from tfos.packing.files import Files, tree

# what is never imported: headers, for those who compile operations of their own; Spark's jars,
# which clusters have and spark-submit sends; tests
_UNUSED = {
    "tensorflow/include",
    "pyspark/jars",
    "pyarrow/include",
    "pyarrow/tests",
    "pandas/tests",
}


def site_folders() -> list[Path]:
    """Where this process has installed packages from, in the order of its module path."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    known = {os.path.realpath(folder) for folder in folders}
    paths = dict.fromkeys(os.path.realpath(path) for path in sys.path if path)
    return [Path(path) for path in paths if path in known]


def packages(folders: list[Path], at: str) -> Files:
    """What site_folders() have; the first of them comes to lie at `at` in the archive.

    Raises PreflightError for a package that cannot be taken along.
    """
    found: Files = {}
    others = []
    for number, folder in enumerate(folders):
        place = at if not number else f"{at}-{number}"
        found.update(_packages(folder, folders, place))
        if number:
            others.append(os.path.basename(place))
    if others:  # they stay apart, as one may have an older version of what another has
        found[f"{at}/other-site-packages.pth"] = "".join(
            f"import os, site; site.addsitedir(os.path.join(sitedir, '..', {name!r}))\n"
            for name in others
        ).encode()
    return found


def _packages(folder: Path, folders: list[Path], at: str) -> Files:
    editable = {
        distribution: origin
        for distribution in metadata.distributions(path=[str(folder)])
        if (origin := _editable_origin(distribution)) is not None
    }
    theirs = {
        str(Path(os.path.normpath(file.locate())).relative_to(folder))
        for distribution in editable
        for file in distribution.files or ()
        if Path(os.path.normpath(file.locate())).is_relative_to(folder)
    }
    of_editable = {
        path for path in theirs
        if ".dist-info/" not in path or path.endswith(("/direct_url.json", "/RECORD"))
    }  # fmt: skip
    found: Files = dict(tree(folder, at, lambda path: path in _UNUSED or path in of_editable))
    linked: list[Path] = []
    for file in sorted(folder.glob("*.pth")):
        kept = []
        for line in _lines(file):
            target = Path(os.path.realpath(folder / line))
            is_code = line.startswith(("import ", "import\t"))
            if is_code or any(target.is_relative_to(each) for each in folders):
                kept.append(line)
            elif target.is_dir():
                linked.append(target)
        if file.name not in of_editable and f"{at}/{file.name}" in found:
            found[f"{at}/{file.name}"] = "".join(f"{line}\n" for line in kept).encode()
    found.update(_of_editable(editable, linked, at))
    return found


def _lines(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.rstrip()


def _editable_origin(distribution: metadata.Distribution) -> Path | None:
    """The folder of the project that is installed as editable (PEP 610); None where it is not."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(os.path.realpath(unquote(urlsplit(origin["url"]).path)))


def _of_editable(editable: dict[metadata.Distribution, Path], linked: list[Path], at: str) -> Files:
    """The modules of editable installs, and of other folders that are linked to."""
    found: Files = {}
    for distribution, origin in editable.items():
        names = (distribution.read_text("top_level.txt") or "").split()
        theirs = [folder for folder in linked if folder.is_relative_to(origin)]
        linked = [folder for folder in linked if folder not in theirs]
        if not names:
            names = [name for folder in theirs for name in _modules(folder)]
        files = {path: file for name in names for path, file in _module(name, at)}
        if not files:
            raise PreflightError(
                f"{distribution.metadata['Name']} is installed as editable from {origin}, in a way"
                " that does not tell its modules: install it as a copy, with"
                f" {sys.executable} -m pip install {origin}"
            )
        found.update(files)
    for folder in linked:
        for name in _modules(folder):
            found.update(_module(name, at))
    return found


def _modules(folder: Path) -> list[str]:
    """The modules and packages of a folder, also the packages without __init__.py."""
    names = [module.name for module in pkgutil.iter_modules([str(folder)])]
    spaces = [
        each.name for each in folder.iterdir()
        if each.is_dir() and each.name.isidentifier() and each.name not in names
        and next(each.rglob("*.py"), None)
    ]  # fmt: skip
    return sorted([*names, *spaces])


def _module(name: str, at: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package, by its outermost name, from where it would be imported."""
    spec = find_spec(name)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None:
            yield f"{at}/{Path(spec.origin).name}", Path(spec.origin)
        return
    for folder in reversed(list(spec.submodule_search_locations)):  # the first one wins
        if os.path.isdir(folder):
            yield from tree(
                Path(folder), f"{at}/{name}", lambda path: path.rpartition("/")[2].startswith(".")
            )
