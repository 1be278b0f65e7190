"""Checkpoints: weights, optimizers and progress, whole or not at all.

A checkpoint is a committed directory of the lake: TensorFlow's own checkpoint files, written by
the chief (those of large variables a piece at a time), and state.json, the progress that belongs to
these weights. Several training loops of
one run share its checkpoints; each has a section of the state and prefixes its objects with it.

Training stands still only while weights and state are copied to local disk. One thread takes them
from there to the lake. Where several processes train in step all restore a checkpoint, and one, the
owner, saves it: saving reads variables only.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.fault.checkpoint import chunked
from tfos.fault.checkpoint.resharding import trackable
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.lake.storage import remove_local

# see affordable()
_CHEAP_SECS, _SHARE = 1.0, 10
# the state of a section, and what makes it true
Elsewhere = tuple[Any, Callable[[], None]]


class Checkpointer:
    """Saves and restores the checkpoints of one run. Used where train() runs.

    Not thread-safe, but for hurry(), due() and stats.

    store: where they are kept. What it raises in the uploading thread the next save() or wait()
        raises. Where this process is not its owner, save() does nothing.
    scratch: a local directory for files on their way.
    every_secs: how often due() says yes.
    io_device: the TensorFlow device that writes files, where variables live on other machines.
    shared: state that belongs to no section: called at a save, and given back at the restore.
    quiet: made around what may take long and has nothing to report.
    on_save: called with the section of each save().
    on_commit: called in the uploading thread when a checkpoint is committed.
    parts: sections whose state is asked for at each save, by name: of what is kept elsewhere. With
        it comes what is called in the uploading thread, before the checkpoint is committed.
    """

    def __init__(
        self,
        store: CheckpointStore,
        scratch: str,
        every_secs: float,
        io_device: str | None = None,
        shared: tuple[Callable[[], Any], Callable[[Any], None]] | None = None,
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_save: Callable[[str], None] = lambda section: None,
        on_commit: Callable[[], None] = lambda: None,
        parts: Mapping[str, Callable[[], Elsewhere]] | None = None,
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._every_secs = every_secs
        self._options = tf.train.CheckpointOptions(experimental_io_device=io_device)
        self._shared = shared
        self._io_device = io_device
        self._objects: dict[str, Any] = {}
        self._large: dict[str, list[Any]] = {}
        self._sections: dict[str, Any] = {}
        self.fence = store.fence
        self._quiet = quiet
        self._on_save, self._on_commit = on_save, on_commit
        self._parts = dict(parts or {})
        self._follows = False
        # what the run continues from: the step, and the state of each section; None: it begins
        self._begun: tuple[int, Mapping[str, Any]] | None = None
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._last_save = time.monotonic()
        self._last_secs = 0.0
        self._hurried = threading.Event()
        self._upload: threading.Thread | None = None
        self._error: BaseException | None = None
        # saves that were begun, and the number of the newest that is committed
        self._saves = self._committed = 0
        self._stall_secs = 0.0
        with quiet():
            self._restored = store.fetch_newest(scratch)
        self._open(self._restored)

    def _open(self, found: tuple[str, dict[str, Any]] | None) -> None:
        """Takes over what a checkpoint holds besides its objects."""
        if found is None:
            return
        local, state = found
        self._begun = int(state["step"]), state["sections"]
        self._sections = dict(state["sections"])
        for section in self._sections:
            if Path(local, f"{section}.npz").exists():
                with np.load(Path(local, f"{section}.npz")) as arrays:
                    self._arrays[section] = dict(arrays)
        if self._shared:
            self._shared[1](state["shared"])

    @property
    def sections(self) -> Mapping[str, Any] | None:
        """The state of all sections that the run continues from; None when it begins."""
        return self._begun and self._begun[1]

    def take_over(
        self,
        step: int,
        sections: Mapping[str, Any],
        arrays: Mapping[str, Mapping[str, np.ndarray]],
        shared: Any,
    ) -> None:
        """The run continues from this, which is later than the newest checkpoint.

        Weights that are not elsewhere are still that checkpoint's.
        """
        self._begun = step, sections
        self._sections, self._arrays = dict(sections), {name: dict(arrays[name]) for name in arrays}
        if self._shared:
            self._shared[1](shared)

    def follow(self, step: int, sections: Mapping[str, Any] | None) -> None:
        """The run continues from this, which another process has read: restore() gives the state
        alone, as the weights are elsewhere.
        """
        self._follows = True
        self._begun = None if sections is None else (step, sections)
        self._sections = dict(sections or {})

    @property
    def is_ahead(self) -> bool:
        """Whether the run continues from what is in no checkpoint, see take_over()."""
        return self.step > self._store.newest and self._store.is_owner

    @property
    def step(self) -> int:
        """The step that the run continues from, a checkpoint's; 0 when it begins."""
        return self._begun[0] if self._begun else 0

    def restore(self, section: str = "user", **objects: Any) -> Any:
        """Takes `objects` into all later checkpoints, and restores them if there is one.

        objects: trackables whose variables exist already, e.g. model=model, optimizer=optimizer.
        Of a Keras model or layer its weights are taken, in their order, without metrics; of a Keras
        optimizer its variables. A table of tfos.layers is whole, whatever shards it has.
        Returns the state last saved for the section, or None when the run begins.
        """
        if self._follows:
            return self._sections.get(section)
        large: dict[str, list[Any]] = {}
        named = {}
        for name, value in objects.items():
            path = f"{section}.{name}"
            rest = chunked.without_large(path, trackable(value), large)
            if rest is not None:
                named[path] = rest
        self._objects.update(named)
        self._large.update(large)
        if self._restored is not None and section in self._restored[1]["sections"]:
            with self._quiet():
                directory = Path(self._restored[0])
                weights = str(directory / "weights")
                status = tf.train.Checkpoint(**named).read(weights, self._options)
                status.assert_existing_objects_matched().expect_partial()
                chunked.restore(str(directory / "large"), large, self._io_device)
        return self._begun and self._begun[1].get(section)

    def now(self, section: str, state: Any) -> tuple[Mapping[str, Any], Any]:
        """The sections of a checkpoint that was made now, with this state of one; and `shared`."""
        self._sections[section] = state
        return self._sections, self._shared[0]() if self._shared else None

    def has(self, section: str) -> bool:
        """Whether the checkpoint that the run continues from has something of a section."""
        return section in self._sections

    def state(self, section: str) -> Any:
        """What the newest checkpoint, here or in the lake, has of a section; None for nothing."""
        return self._sections.get(section)

    def close(self) -> None:
        """Removes the local files of the checkpoint that was restored; restore() is over."""
        if self._restored is not None:
            remove_local(self._restored[0])

    def arrays(self, section: str) -> Mapping[str, np.ndarray]:
        """The arrays that were last saved for a section, by name."""
        return self._arrays.get(section, {})

    def due(self) -> bool:
        """Whether --checkpoint-secs have passed since the begin of the last save, or hurry().

        Not while that is still uploaded, which training would wait for.
        """
        if not self._store.is_owner:
            return False
        if self._hurried.is_set():
            return True
        is_time = time.monotonic() - self._last_save >= self._every_secs
        return is_time and not self._is_uploading

    @property
    def _is_uploading(self) -> bool:
        return self._upload is not None and self._upload.is_alive()

    def affordable(self) -> bool:
        """Whether a save now is worth it without being due: it takes a tenth of the time at most.

        What takes less than a second always is; so is one that will raise what the last one raised.
        """
        since = time.monotonic() - self._last_save
        is_cheap = self._last_secs < _CHEAP_SECS or since >= _SHARE * self._last_secs
        if self._is_uploading:
            is_cheap = False  # its time is not known yet, and a save would wait for it
        return self.due() or self._error is not None or is_cheap

    def hurry(self) -> Callable[[], bool]:
        """Makes due() say yes until the next save. May be called from any thread.

        Returns what says whether a checkpoint that was begun since is committed.
        """
        wanted = self._saves + 1
        self._hurried.set()
        return lambda: self._committed >= wanted

    def save(
        self,
        step: int,
        state: Any = None,
        section: str = "user",
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Saves all objects given to restore(), and `state` (JSON-able) and arrays of the section.

        Blocks while the last save is uploaded and while this one is copied to local disk; when it
        returns, the checkpoint is not in the lake yet, see wait(). No training may be under way.

        step: above that of every earlier checkpoint of the run.
        Raises what the upload of the last save raised, most often LakeError, and saves nothing
        then; UsageError for a step that is not above.
        """
        if not self._store.is_owner:
            return
        begun = time.monotonic()
        self._on_save(section)
        try:
            self.wait()
            if step <= self._store.newest:
                raise UsageError(
                    f"a checkpoint at step {self._store.newest} exists already, which is not before"
                    f" {step}: save at a later step"
                )
            self._saves += 1  # first: who calls hurry() from here on waits for the next one
            self._hurried.clear()
            self._last_save = time.monotonic()
            self._arrays[section] = dict(arrays or {})
            local, finishing = self._snapshot(step, state, section)
            self._upload = threading.Thread(
                target=self._commit,
                args=(local, finishing, step, self._last_save, self._saves),
                name="checkpoint",
                daemon=True,  # a process that fails ends without waiting for a storage that fails
            )
            self._upload.start()
        finally:
            self._stall_secs += time.monotonic() - begun

    def wait(self) -> None:
        """Blocks until what was saved is committed. Raises what its upload raised, once."""
        if self._upload is not None:
            self._upload.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def stats(self) -> dict[str, float]:
        """What saving took so far.

        As CheckpointStore.stats; stall_secs: how long save() blocked, summed up.
        """
        return {**self._store.stats, "stall_secs": round(self._stall_secs, 3)}

    def _snapshot(
        self, step: int, state: Any, section: str
    ) -> tuple[str, list[Callable[[], None]]]:
        """Writes weights and state as they are now to a new local directory; returns it, and what
        is to be called before they are committed.
        """
        finishing = []
        for name, take in self._parts.items():
            self._sections[name], finish = take()
            finishing.append(finish)
        local = tempfile.mkdtemp(prefix="save-", dir=self._scratch)
        try:
            tf.train.Checkpoint(**self._objects).write(str(Path(local, "weights")), self._options)
            chunked.save(str(Path(local, "large")), self._large, self._io_device)
            sections, shared = self.now(section, state)
            self._store.write_state(local, step, sections, shared)
            for name, arrays in self._arrays.items():
                if arrays:
                    np.savez(Path(local, f"{name}.npz"), allow_pickle=False, **arrays)
        except BaseException:
            remove_local(local)
            raise
        return local, finishing

    def _commit(
        self,
        local: str,
        finishing: Sequence[Callable[[], None]],
        step: int,
        begun: float,
        number: int,
    ) -> None:
        """The uploading thread: takes a snapshot to the lake, and old checkpoints from it."""
        try:
            for finish in finishing:
                finish()
            self._last_secs = self._store.commit(local, step, begun)
            self._committed = number
            self._on_commit()
            self._store.prune()
        except BaseException as error:  # raised where somebody sees it, by wait()
            self._error = error
        finally:
            remove_local(local)
