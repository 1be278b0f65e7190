"""Horovod where it cannot be: what to use instead, rather than that there is no such module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata

from tfos.errors import UsageError

# of Horovod 0.28.1, its last release; 2.20 and 2.21 lack headers that it includes
_NEWEST_TENSORFLOW = (2, 18)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises UsageError where Horovod cannot be imported because TensorFlow is too new for it."""
    try:
        yield
    except ImportError as error:
        words = _advice(error)
        if words is None:
            raise
        raise UsageError(words) from error


def _advice(error: ImportError) -> str | None:
    # what it raises where it was built without TensorFlow, or with another one, has no module name
    is_horovods = (error.name or "").partition(".")[0] == "horovod" or "orovod" in str(error)
    try:
        found = metadata.version("tensorflow")
    except metadata.PackageNotFoundError:
        return None
    if not is_horovods or tuple(map(int, found.split(".")[:2])) <= _NEWEST_TENSORFLOW:
        return None
    return (
        f"Horovod cannot be imported: {str(error).splitlines()[0]}. Its last release, 0.28.1,"
        " builds with TensorFlow up to 2.18, and its Keras part up to 2.15; here is"
        f" {found}. Use --strategy multi-worker, TensorFlow's own allreduce, or PyTorch or JAX"
        " under --strategy gang; or install tensorflow==2.15.* and Horovod with it (docs/GANG.md)"
    )
