"""What in a traced graph depends on what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfos.compat.tensorflow import function_graph

# operations that call functions: the attributes that name these, and how many inputs of their own
# come before what they give to the functions
_CALLS = {
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
    "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1),
}


def called(operation: Any) -> Iterator[Any]:
    """The graphs of the functions one of which an operation calls with its last inputs; or none."""
    for name in _CALLS.get(operation.type, ((), 0))[0]:
        yield function_graph(operation, name)


def reached(tensors: Sequence[Any]) -> Iterator[Any]:
    """The tensors that these are computed from, and these themselves, each once.

    Inside functions that are called, and in conditions, too. What a loop gives is taken to need all
    that the loop is given.
    """
    seen: set[int] = set()
    left = list(tensors)
    while left:
        tensor = left.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        yield tensor
        operation = tensor.op
        _, own = _CALLS.get(operation.type, ((), len(operation.inputs)))
        left.extend(operation.inputs[:own])
        for body in called(operation):
            places = {id(given): place for place, given in enumerate(body.inputs)}
            for inner in reached([body.outputs[tensor.value_index]]):
                if id(inner) in places:
                    left.append(operation.inputs[own + places[id(inner)]])
                else:
                    yield inner
