"""Compiled modules that hold wherever they are unpacked.

Python compares a compiled module with the time of its source, and some who unpack archives give
files a new one: everything would be compiled again, in each container. Those here are of the kind
that is taken as it is (PEP 552, "unchecked").
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import struct
import warnings
from pathlib import Path

_MAGIC = importlib.util.MAGIC_NUMBER
_HEADER = len(_MAGIC) + 12
_UNCHECKED = 0b01


def compiled_at(path: str) -> str:
    """Where the compiled module lies of the one at `path`."""
    return importlib.util.cache_from_source(path)


def compiled(source: Path, name: str) -> bytes | None:
    """The compiled module of a source file; None where it is in another language than this Python.

    name: of the file, for messages; Python replaces it as it loads the module.
    """
    text = source.read_bytes()
    code = _made_already(source)
    if code is None:
        try:
            with warnings.catch_warnings():  # which concern its author
                warnings.simplefilter("ignore")
                code = marshal.dumps(compile(text, name, "exec", dont_inherit=True))
        except (SyntaxError, ValueError):
            return None
    return _MAGIC + struct.pack("<I", _UNCHECKED) + importlib.util.source_hash(text) + code


def _made_already(source: Path) -> bytes | None:
    """What Python or pip has compiled, if it is of this source."""
    try:
        data = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        stat = os.stat(source)
    except OSError:
        return None
    same = struct.pack("<III", 0, int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
    return data[_HEADER:] if data[:_HEADER] == _MAGIC + same else None
