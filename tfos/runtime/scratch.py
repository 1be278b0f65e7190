"""Where temporary files go in a container of YARN: into its own directory.

YARN removes that with the container, however it ends, and it lies on a disk that YARN has chosen;
/tmp is small on many a machine, and nobody removes what a killed process has left there.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def use_container() -> None:
    """For this process and those that it starts; to be called before the first temporary file.

    Does nothing outside of a container, or where TMPDIR names a place.
    """
    if "CONTAINER_ID" not in os.environ or "TMPDIR" in os.environ:
        return
    place = Path(os.environ["PWD"], "tmp")
    place.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
