"""Files of an archive: where they lie in it, and what they are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# a path in the archive, with slashes -> the file, or its content
Files = dict[str, "Path | bytes"]


def tree(
    folder: Path, at: str, leaves_out: Callable[[str], bool] = lambda path: False
) -> Iterator[tuple[str, Path]]:
    """The files below a folder that comes to lie at `at`; links are followed, compiled code is not
    among them.

    leaves_out: told of a file or folder by its path below `folder`. Raises OSError.
    """

    def walk(place: str, below: str) -> Iterator[tuple[str, Path]]:
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = below + entry.name
                if entry.name == "__pycache__" or leaves_out(path):
                    continue
                if entry.is_file():
                    yield f"{at}/{path}", Path(entry.path)
                elif entry.is_dir() and not _is_circle(entry):
                    yield from walk(entry.path, f"{path}/")

    return walk(str(folder), "")


def _is_circle(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder that it lies in."""
    if not entry.is_symlink():
        return False
    real = os.path.realpath(entry.path)
    return os.path.commonpath([real, os.path.realpath(os.path.dirname(entry.path))]) == real
