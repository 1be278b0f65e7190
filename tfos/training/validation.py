"""What fit() validates on, in whichever of its three words that was said."""

from __future__ import annotations

from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset


def validation_of(
    validation: FeedDataset | str | float | None,
    validation_data: FeedDataset | str | None,
    validation_split: float,
) -> FeedDataset | str | float | None:
    """The one that was given: a dataset, a feed's name or a part of the rows; None for none.

    validation_data, validation_split: Keras's words; a split of 0 is none. Raises UsageError when
    two are given, or what was given is none of these.
    """
    given = {
        "validation": validation,
        "validation_data": validation_data,
        "validation_split": validation_split or None,
    }
    given = {word: value for word, value in given.items() if value is not None}
    if len(given) > 1:
        words = " and ".join(f"{word}={_shown(value)}" for word, value in given.items())
        raise UsageError(f"fit() was given {words}: leave out all but one of them")
    kinds = {
        "validation": (FeedDataset, str, int, float),
        "validation_data": (FeedDataset, str),
        "validation_split": (int, float),
    }
    for word, value in given.items():
        if not isinstance(value, kinds[word]):
            raise UsageError(
                f"{word}={_shown(value)}: give validation_data a ctx.dataset(), or the name of a"
                " feed; validation_split a part of the rows, such as 0.1"
            )
        return value
    return None


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else type(value).__name__
