"""Memory by its address, inside kernels: locks, and arrays whose number grows while others read.

An address is what ndarray.ctypes.data says; whoever made the array keeps it alive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import cgutils, types
from numba.extending import intrinsic

from tfos.kv.compiled import inlined

# gives the rest of its time to others; a symbol of the C library, which cached code finds again
_sched_yield = types.ExternalFunction("sched_yield", types.intc())
_WORD = ir.IntType(64)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def _swap_0_for_1(typing_context: Any, address: Any) -> Any:
    """True if the word was 0, and is 1 now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        swapped = builder.cmpxchg(pointer, _WORD(0), _WORD(1), "acquire", "monotonic")
        return builder.extract_value(swapped, 1)

    return types.boolean(types.int64), generate


@intrinsic
def unlock(typing_context: Any, address: Any) -> Any:
    """Frees the lock at `address`, an aligned int64 that the caller holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store_atomic(_WORD(0), pointer, ordering="release", align=8)
        return context.get_dummy_value()

    return types.none(types.int64), generate


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Asks for the cache line at `address`, which need not be valid, to be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3])
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        builder.call(function, [pointer, *(ir.IntType(32)(value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(types.int64), generate


@inlined
def try_lock(address):
    return _swap_0_for_1(address)


@inlined
def lock(address):
    while not _swap_0_for_1(address):
        _sched_yield()


@inlined
def yield_processor():
    _sched_yield()


@inlined
def words(address, count):
    """int64 [count] at `address`."""
    return carray(_pointer(address), count, np.int64)


@inlined
def floats(address, count):
    """float32 [count] at `address`."""
    return carray(_pointer(address), count, np.float32)


@inlined
def octets(address, count):
    """uint8 [count] at `address`."""
    return carray(_pointer(address), count, np.uint8)
