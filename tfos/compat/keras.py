"""Private names of Keras."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tfos.errors import TFOSError


def _missing(error: Exception, what: str, instead: str = "--strategy single") -> TFOSError:
    """For a version that does something otherwise. instead: what a person can do about it."""
    return TFOSError(
        f"Keras {keras.__version__} {what} otherwise ({error}): use a version that tfos is tested"
        f" with, or {instead}"
    )


def all_layers(model: keras.Model) -> Iterable[keras.Layer]:
    """The layers of a model, and those inside them.

    Without it stateful layers are not refused, and tables of strings not exported.
    """
    try:
        return model._flatten_layers()  # type: ignore[no-any-return]
    except AttributeError as error:
        raise _missing(error, "lists layers") from error


def own_trainable_variables(owner: Any) -> list[Any]:
    """Of a layer, without those of layers inside it; of an optimizer, the weights it updates."""
    try:
        return list(owner._trainable_variables)
    except AttributeError as error:
        raise _missing(error, "keeps trainable variables") from error


def updated_weight(optimizer: Any, variable: Any) -> Any:
    """The weight, as it was given to build(), that an optimizer's step knows as `variable`."""
    try:
        return optimizer._trainable_variables[optimizer._get_variable_index(variable)]
    except AttributeError as error:
        raise _missing(error, "numbers the weights of an optimizer") from error


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> list[Any]:
    """Adam's first and second moment of a variable, as TensorFlow's variables."""
    try:
        index = optimizer._get_variable_index(variable)
        return [optimizer._momentums[index].value, optimizer._velocities[index].value]
    except AttributeError as error:
        raise _missing(error, "keeps Adam's moments", "--num-workers 1") from error


def variable_class() -> Any:
    """The class of Keras's variables on TensorFlow."""
    try:
        from keras.src.backend.tensorflow.core import Variable
    except ImportError as error:
        raise _missing(error, "makes variables") from error
    return Variable


def apply_gradients(optimizer: Any, gradients: list[Any], variables: Any) -> None:
    """Each gradient applied where its variable is, as Keras does it without a strategy."""
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    BaseOptimizer._backend_apply_gradients(optimizer, gradients, variables)


@contextlib.contextmanager
def replaced(place: str, **functions: Any) -> Iterator[dict[str, Any]]:
    """Other functions inside Keras: place is "module:class", or "module" below keras.src.

    Gives those that are replaced, by name.
    """
    module, _, name = place.partition(":")
    try:
        owner = importlib.import_module(f"keras.src.{module}")
        owner = getattr(owner, name) if name else owner
        before = {function: getattr(owner, function) for function in functions}
        own = {function: vars(owner)[function] for function in functions if function in vars(owner)}
    except (ImportError, AttributeError) as error:
        raise _missing(error, "is made") from error
    try:
        for function, replacement in functions.items():
            setattr(owner, function, replacement)
        yield before
    finally:
        for function in functions:
            if function in own:
                setattr(owner, function, own[function])
            else:  # inherited: a copy would hide what is replaced in the base later
                delattr(owner, function)
