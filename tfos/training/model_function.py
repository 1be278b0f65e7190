"""train(ctx) for a function that only makes a compiled Keras model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos.errors import AppError

if TYPE_CHECKING:
    from tfos.context import TrainContext


@dataclass(frozen=True)
class TrainModel:
    """Called as train(ctx): makes the model, fits it to the feed "train" and exports it.

    model_fn: called as model_fn(ctx), in the strategy's scope; returns a compiled Keras model.
    features: columns of the feed; None for all but label and weight.
    validation_split: the part of the rows that is kept from the training; 0 for none.
    """

    model_fn: Callable[[TrainContext], Any]
    features: Sequence[str] | None
    label: str
    weight: str | None
    batch_size: int
    epochs: int
    validation_split: float

    def __call__(self, ctx: TrainContext) -> dict[str, float]:
        """Returns what the last epoch ended with, by the names of Keras's History."""
        import keras

        with ctx.strategy.scope():
            model = self.model_fn(ctx)
        if not isinstance(model, keras.Model):
            raise AppError(
                f"model_fn returned {type(model).__name__}: return a compiled Keras model"
            )
        if isinstance(model, keras.Sequential):
            raise AppError(
                "model_fn returned a Sequential, whose input has no name: make it with"
                " keras.Model(inputs, outputs) and a keras.Input(..., name=column) for each column"
            )
        dataset = ctx.dataset(
            "train", self.batch_size, self.features, label=self.label, weight=self.weight
        )
        history = ctx.fit(model, dataset, self.epochs, validation_split=self.validation_split)
        ctx.export(model)
        return {name: values[-1] for name, values in history.history.items() if values}
