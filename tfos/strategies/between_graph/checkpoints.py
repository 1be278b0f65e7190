"""TF1's checkpoints, noted among the run's own.

Sessions save and restore by themselves, in a directory that all processes see. What the driver
counts as progress, `status` shows and the account of rows goes with is a checkpoint of the run: so
each one that TensorFlow has written gets a record there, which names it.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from tfos.errors import FencedError, LakeError
from tfos.lake.storage import remove_local
from tfos.runtime.host import Host
from tfos.strategies.between_graph.reads import CountedReader

_log = logging.getLogger(__name__)
_LOOK_SECS = 1.0
_STEP = re.compile(r"-(\d+)$")


def newest(directory: str) -> tuple[int, str] | None:
    """The step and the name of the newest checkpoint in a directory of TF1's."""
    path = tf.train.latest_checkpoint(directory)
    step = _STEP.search(path or "")
    return (int(step[1]), Path(path).name) if step else None


class Checkpoints:
    """Follows the checkpoints in `directory`, where there is one; for the chief.

    Its thread alone uses the store. Raises LakeError.
    """

    def __init__(self, host: Host, directory: str, reader: CountedReader) -> None:
        self._host, self._directory, self._reader = host, directory, reader
        self._over = threading.Event()
        self._error: BaseException | None = None
        found = host.store.fetch_newest(host.scratch)
        if found is not None:
            local, state = found
            host.ledger.restore(state["shared"])
            remove_local(local)
        host.reports.saved(host.store.stats)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._over.wait(_LOOK_SECS):
                try:
                    self._note()
                except FencedError:
                    raise
                except LakeError as error:  # the next look may find the lake there
                    _log.warning("a checkpoint of the session is not noted yet: %s", error)
            self._note()
        except BaseException as error:
            self._error = error

    def _note(self) -> None:
        store = self._host.store
        found = newest(self._directory) if self._directory else None
        if found is None or found[0] <= store.newest:
            return
        step, name = found
        with tempfile.TemporaryDirectory(dir=self._host.scratch) as local:
            store.write_state(local, step, {"session": {"checkpoint": name}}, self._reader.counts())
            store.commit(local, step)
        store.prune()
        self._host.reports.saved(store.stats)

    def end(self) -> None:
        """Notes the last one. Raises what went wrong: LakeError, FencedError."""
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
