"""What to do in place of what a tf.data.Dataset can, and a dataset of a feed cannot."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfos.errors import UsageError

# what takes the place of tf.data's methods; `map` is there
_ITERATE = "iterate over it in `for batch in dataset:` and break where you have enough"
_LESS = "select the rows in pre_train(), whose DataFrames have filter() and limit()"
_LEAVE = "leave it out: batches are read ahead, and rows are kept where they are read"
_INSTEAD = {
    **dict.fromkeys(("take", "as_numpy_iterator", "get_single_element"), _ITERATE),
    **dict.fromkeys(("skip", "filter", "shard", "take_while", "sample_from_datasets"), _LESS),
    **dict.fromkeys(("prefetch", "cache", "with_options"), _LEAVE),
    **dict.fromkeys(("batch", "padded_batch", "rebatch"), "use ctx.dataset(..., batch_size=...)"),
    "unbatch": "it comes in batches: use ctx.dataset(..., batch_size=1)",
    "shuffle": "use ctx.dataset(..., shuffle=True, seed=...)",
    "repeat": "use ctx.fit(model, dataset, epochs=...), or iterate over it again",
    "cardinality": "see its steps_per_epoch and rows",
}
_OTHERWISE = "use its map(), or make the columns in pre_train()"


class _NotOfTfData(UsageError, AttributeError):
    """For hasattr(), too, there is no such method."""


class NotTfData:
    """The methods of tf.data.Dataset, each an error that names what takes its place."""

    feed: str

    def __getattr__(self, name: str) -> Any:
        """Raises UsageError, with what to do instead, for the methods of tf.data.Dataset."""
        if name.startswith("_") or not hasattr(tf.data.Dataset, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise _NotOfTfData(
            f"ctx.dataset() is no tf.data.Dataset: instead of its {name}(),"
            f" {_INSTEAD.get(name, _OTHERWISE)}"
        )

    @property
    def __array__(self) -> Any:
        """Keras asks its own fit(), evaluate() and predict() for it; raises UsageError."""
        raise UsageError(
            f"the dataset of feed {self.feed!r} is neither an array nor a tf.data.Dataset, as"
            " Keras's own model.fit(), evaluate() and predict() want it: call ctx.fit(model,"
            " dataset), ctx.evaluate(model, dataset) or ctx.predict(model, dataset), or iterate"
            " over it"
        )
