"""Files that train() and its callbacks write: a local directory, whatever the lake is.

Libraries write to paths: CSVLogger, ModelCheckpoint, TensorBoard. In a mounted lake these are the
run's own directories. For another one they are scratch, which is brought to the lake after each
epoch and at the end, and fetched again when the training begins anew.
"""

from __future__ import annotations

from pathlib import Path

from tfos.lake.run_directory import EVENTS, OUTPUT, RunDirectory
from tfos.lake.storage import remove_local


class Outputs:
    """The directories `events`, for TensorBoard, and `output`, for everything else.

    scratch: a local directory; what is there under "outputs" is removed.
    is_owner: whether this process's files go to the lake, and those there are fetched.
    Raises LakeError when they cannot be.
    """

    def __init__(self, lake: RunDirectory, scratch: str, is_owner: bool) -> None:
        self._lake = lake
        self._uploads = is_owner and not lake.is_local
        # of each file that is in the lake its size and time as it was taken there
        self._known: dict[str, tuple[int, int]] = {}
        self._root = Path(lake.path()) if lake.is_local else Path(scratch, "outputs")
        if not lake.is_local:
            remove_local(str(self._root))
        self.events, self.output = (str(self._root / name) for name in (EVENTS, OUTPUT))
        for name in (EVENTS, OUTPUT):
            (self._root / name).mkdir(parents=True, exist_ok=True)
            for file in lake.find(name) if self._uploads else []:
                local = self._root / name / file
                local.parent.mkdir(parents=True, exist_ok=True)
                lake.download(f"{name}/{file}", str(local))
        self._known = self._found()

    def _found(self) -> dict[str, tuple[int, int]]:
        if not self._uploads:
            return {}
        found = {}
        for file in sorted(self._root.rglob("*")):
            if file.is_file():
                stat = file.stat()
                found[file.relative_to(self._root).as_posix()] = stat.st_size, stat.st_mtime_ns
        return found

    def upload(self) -> None:
        """Makes the lake have the files as they are now: takes there what has changed. Blocks.

        Raises LakeError when it cannot.
        """
        found = self._found()
        for name, version in found.items():
            if self._known.get(name) != version:
                self._lake.upload(str(self._root / name), name)
        for name in self._known.keys() - found.keys():
            self._lake.remove(name)
        self._known = found
