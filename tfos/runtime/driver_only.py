"""What stands in train() for an object of the driver."""

from __future__ import annotations

from typing import Any, NoReturn

from tfos.errors import AppError


class DriverOnly:
    """In place of a session or a DataFrame that the app's code names.

    A class of a notebook comes with all that its methods name, and pre_train() names `spark`.
    kind: the object's class. Raises AppError when it is used.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by copy, pickle and their like
            raise AttributeError(name)
        self._refuse(f".{name}")

    def __getitem__(self, key: object) -> Any:
        self._refuse(f"[{key!r}]")

    def __call__(self, *args: object, **named: object) -> Any:
        self._refuse("()")

    def _refuse(self, use: str) -> NoReturn:
        raise AppError(
            f"{self._kind}{use}: Spark's objects are on the driver, and train() runs in another"
            " process; compute what it needs in pre_train(), and keep it there as an attribute of"
            " self, or return it as a feed"
        )
