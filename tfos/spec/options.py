"""An option of a run, in its three spellings.

num_ps is a flag of pl_submit (--num-ps), a Spark conf key (spark.tfos.numPs) and an argument of
TFOnSparkApp.run() (num_ps=1). An option is a field of a dataclass, made by option().
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfos.errors import UsageError

CONF_PREFIX = "spark.tfos."


def option(default: Any, help: str, metavar: str | None = None) -> Any:
    """A dataclass's field that is an option; its type is that of the default."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar})


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def conf_key(name: str) -> str:
    head, *rest = name.split("_")
    return CONF_PREFIX + head + "".join(part.capitalize() for part in rest)


def spellings(name: str) -> str:
    """All three, for messages."""
    return f"{flag(name)} (run({name}=...), {conf_key(name)})"


def converted(field: dataclasses.Field[Any], value: Any, source: str) -> Any:
    """The value of an option, given as text (a conf value) or already typed. Raises UsageError."""
    kind: Any = type(field.default)
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and isinstance(value, (float, bool)):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"{source} is {value!r}: {spellings(field.name)} takes {wanted}") from None
