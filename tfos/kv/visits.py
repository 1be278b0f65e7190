"""The kernels that serve requests: all of a request's keys, stripe by stripe.

A visit takes the stripes of its keys in any order, those first that nobody else is in. So two
requests wait for each other only when no stripe is free that they still have to visit.
"""

from __future__ import annotations

import numpy as np

from tfos.kv.compiled import inlined, kernel
from tfos.kv.hashing import hash_of
from tfos.kv.memory import floats, try_lock, unlock, words, yield_processor
from tfos.kv.rows import (
    ADMIT_AFTER,
    COPIED,
    FLOATS,
    HEADER_BYTES,
    INITIALIZER,
    IS_DENSE,
    OPTIMIZER,
    SEED,
    STRIDE,
    STRIPE_WORDS,
    WIDTH,
    find,
    has_room,
    initial,
    make,
    prefetch_index,
    prefetch_row,
    sighted,
)
from tfos.kv.updates import update

# What is done with each key's row. PULL and MAKE write `values`, the others read them.
# PULL: reads its weights; of one that is not there, what it would begin with.
# MAKE: the same, and it is there from then on, unless keys must be pushed first to be admitted.
# PUSH: one update of the optimizer. ADD: adds to the weights.
# PUT: the weights, where there is no row yet. LOAD: weights and slots.
PULL, MAKE, PUSH, ADD, PUT, LOAD = range(6)
READS = (PULL, MAKE)

# how many keys ahead an index's line, and then a row's, is asked for
_FAR, _NEAR = 16, 8


@kernel("void(i8[::1], i8, u8[::1], i8[::1], i8[::1])")
def group(keys, bits, hashed, order, begins):
    """Sorts keys by stripe, which the first `bits` bits of their hash say.

    Fills hashed, [n], order, the positions of keys by stripe, [n], and begins, where each stripe's
    begin in it, [2**bits + 1].
    """
    shift = np.uint64(63 - bits)
    begins[:] = 0
    for i in range(keys.shape[0]):
        hashed[i] = hash_of(keys[i])
        begins[np.int64((hashed[i] >> np.uint64(1)) >> shift) + 1] += 1
    for stripe in range(1, begins.shape[0]):
        begins[stripe] += begins[stripe - 1]
    for i in range(keys.shape[0]):
        stripe = np.int64((hashed[i] >> np.uint64(1)) >> shift)
        order[begins[stripe]] = i
        begins[stripe] += 1
    for stripe in range(begins.shape[0] - 1, 0, -1):
        begins[stripe] = begins[stripe - 1]
    begins[0] = 0


@inlined
def _is_zero(value):
    d = 0
    while d < value.shape[0] and value[d] == 0:
        d += 1
    return d == value.shape[0]


@inlined
def _visit_stripe(
    operation, keys, hashed, order, begin, end, stripe, layout,
    initial_numbers, slots, numbers, values, now,
):  # fmt: skip
    """Where in `order` it stopped: at `end`, or at a key for which there is no room."""
    width, stride, admit_after = layout[WIDTH], layout[STRIDE], layout[ADMIT_AFTER]
    kind, seed = layout[INITIALIZER], layout[SEED]
    latest = max(now[0], stripe[COPIED])
    skips_zeros = operation == PUSH and layout[IS_DENSE] == 0
    for j in range(begin, min(begin + _FAR, end)):
        prefetch_index(stripe, hashed[order[j]])
    for j in range(begin, min(begin + _NEAR, end)):
        prefetch_row(stripe, stride, hashed[order[j]])
    for j in range(begin, end):
        if j + _FAR < end:
            prefetch_index(stripe, hashed[order[j + _FAR]])
        if j + _NEAR < end:
            prefetch_row(stripe, stride, hashed[order[j + _NEAR]])
        i = order[j]
        key, value = keys[i], values[i]
        if skips_zeros and _is_zero(value):
            continue
        address = find(stripe, stride, key, hashed[i])
        if address == 0:
            if operation == PULL or (operation == MAKE and admit_after > 1):
                for d in range(width):
                    is_known = admit_after == 1
                    value[d] = initial(kind, initial_numbers, seed, key, d) if is_known else 0
                continue
            if not has_room(stripe):
                return j
            is_counted = admit_after > 1 and (operation in (PUSH, ADD))
            if is_counted and sighted(stripe, hashed[i]) < admit_after:
                continue
            address = make(stripe, stride, key, hashed[i])
            words(address, 2)[1] = latest if operation == MAKE else 0
            row = floats(address + HEADER_BYTES, layout[FLOATS])
            if operation not in (PUT, LOAD):
                for d in range(width):
                    row[d] = initial(kind, initial_numbers, seed, key, d)
            for d in range(slots.shape[0]):
                row[width + d] = slots[d]
        elif operation == PUT:
            continue
        row = floats(address + HEADER_BYTES, layout[FLOATS])
        if operation in (PULL, MAKE):
            for d in range(width):
                value[d] = row[d]
            continue
        header = words(address, 2)
        # later than it was, also where another machine's clock said when that was
        header[1] = now[i] if operation == LOAD else max(latest, header[1] + 1)
        if operation == PUSH:
            update(layout[OPTIMIZER], row, value, width, numbers)
        elif operation == ADD:
            for d in range(width):
                row[d] += value[d]
        else:
            for d in range(values.shape[1]):
                row[d] = value[d]
    return end


@kernel(
    "i8(i8, i8[::1], u8[::1], i8[::1], i8[::1], i8[::1], u1[::1], i8, i8[:,::1], i8[::1],"
    "f8[::1], f4[::1], f4[::1], f4[:,::1], i8[::1])"
)
def visit(
    operation, keys, hashed, order, at, ends, is_stuck, first, stripes, layout,
    initial_numbers, slots, numbers, values, now,
):  # fmt: skip
    """Does one of the operations above for all keys; how many stripes are stuck for want of room.

    at, ends: for each stripe where its keys begin and end in `order`; at moves on as they are done.
    is_stuck: which stripes have no room for their next key; the caller makes room, clears it and
    calls again, as there may be more to do. first: the stripe to begin with. now: milliseconds, for
    all keys [1], or to LOAD each [n].
    """
    todo = 0
    for s in range(stripes.shape[0]):
        if at[s] < ends[s] and not is_stuck[s]:
            todo += 1
    s, busy, stuck = first, 0, 0
    while todo > 0:
        s = s + 1 if s + 1 < stripes.shape[0] else 0
        if at[s] == ends[s] or is_stuck[s]:
            continue
        lock = stripes.ctypes.data + s * STRIPE_WORDS * 8
        if not try_lock(lock):
            busy += 1
            if busy >= todo:
                if stuck:  # the caller has something to do meanwhile
                    return stuck
                yield_processor()
                busy = 0
            continue
        busy = 0
        at[s] = _visit_stripe(
            operation, keys, hashed, order, at[s], ends[s], stripes[s], layout,
            initial_numbers, slots, numbers, values, now,
        )  # fmt: skip
        unlock(lock)
        todo -= 1
        if at[s] < ends[s]:
            is_stuck[s] = 1
            stuck += 1
    return stuck
