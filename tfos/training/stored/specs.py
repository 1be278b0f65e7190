"""What Keras calls an optimizer and an initializer, as the store does."""

from __future__ import annotations

import zlib
from typing import Any

import keras

from tfos.errors import UsageError
from tfos.kv import optimizers as store
from tfos.kv.spec import Constant, Initializer, Normal, Uniform
from tfos.tables import optimizers, proximal

# the arguments that each takes over, besides the learning rate
_ARGUMENTS: dict[type, tuple[type[store.Optimizer], tuple[str, ...]]] = {
    optimizers.SGD: (store.SGD, ("momentum", "nesterov")),
    optimizers.Adagrad: (store.Adagrad, ("initial_accumulator_value", "epsilon")),
    optimizers.Adam: (store.Adam, ("beta_1", "beta_2", "epsilon")),
    proximal.FTRL: (store.FTRL, ("beta", "l1", "l2", "initial_accumulator_value")),
    proximal.ProximalAdagrad: (
        store.ProximalAdagrad, ("l1", "l2", "initial_accumulator_value")
    ),
    proximal.GroupFTRL: (store.GroupFTRL, ("beta", "l1", "l2", "l21")),
    keras.optimizers.SGD: (store.SGD, ("momentum", "nesterov")),
    keras.optimizers.Adagrad: (store.Adagrad, ("initial_accumulator_value", "epsilon")),
    keras.optimizers.Adam: (store.Adam, ("beta_1", "beta_2", "epsilon")),
}  # fmt: skip
# what an optimizer may do besides, and the store does not
_UNKNOWN = (
    "weight_decay", "use_ema", "amsgrad", "loss_scale_factor", "gradient_accumulation_steps"
)  # fmt: skip


def optimizer_of(optimizer: Any, is_dense: bool) -> store.Optimizer:
    """The store's optimizer that does what a Keras optimizer does. Raises UsageError for others.

    is_dense: for a variable that is updated as a whole. The learning rate comes with each push.
    """
    found = _ARGUMENTS.get(type(optimizer))
    if found is None:
        known = ", ".join(f"{kind.__name__}" for kind in store.Optimizer.__subclasses__())
        raise UsageError(
            f"optimizer {type(optimizer).__name__} is not one that the servers of --strategy kv"
            f" have: use one of tfos.optimizers ({known}), or SGD, Adagrad or Adam of Keras"
        )
    for name in _UNKNOWN:
        if getattr(optimizer, name, None):
            raise UsageError(
                f"optimizer {optimizer.name} has {name}={getattr(optimizer, name)}, which the"
                " servers of --strategy kv do not do: leave it out, or use --strategy ps"
            )
    kind, names = found
    if is_dense and kind is store.GroupFTRL:  # whose groups are the rows of tables
        kind, names = store.FTRL, ("beta", "l1", "l2")
    return kind(**{name: _plain(getattr(optimizer, name)) for name in names})


def is_known(optimizer: Any) -> bool:
    """Whether the store has it, and has all that it does."""
    return type(optimizer) in _ARGUMENTS and not any(
        getattr(optimizer, name, None) for name in _UNKNOWN
    )


def initializer_of(initializer: Any, layer: str) -> Initializer:
    """The store's initializer of a table. Raises UsageError for one that it has not."""
    if isinstance(initializer, keras.initializers.RandomUniform):
        return Uniform(initializer.minval, initializer.maxval)
    if isinstance(initializer, keras.initializers.RandomNormal):
        return Normal(initializer.mean, initializer.stddev)
    if isinstance(initializer, keras.initializers.Constant):
        return Constant(float(initializer.value))
    if isinstance(initializer, keras.initializers.Zeros | keras.initializers.Ones):
        return Constant(float(isinstance(initializer, keras.initializers.Ones)))
    raise UsageError(
        f"layer {layer!r} has the embeddings_initializer {type(initializer).__name__}, which the"
        " store has not: use RandomUniform, RandomNormal, Constant, Zeros or Ones"
    )


def seed_of(initializer: Any, table: str) -> int:
    """The initializer's own seed; where none was given, one that all processes have."""
    seed = initializer.get_config().get("seed")
    return seed if isinstance(seed, int) else zlib.crc32(table.encode())


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool) else float(value)
