"""How a stripe of a table lies in memory; kernels that find, make and remove its rows.

A stripe is a hash index and rows in chunks, under one lock. The index is open addressing with
linear probing over words of a row's number and 32 bits of its key's hash, which also say where
probing begins: an index of any size is made anew from the old one alone, in order. Rows lie in
chunks, which never move; a row is its key, when it was last changed, its weights and its slots.
"""

from __future__ import annotations

import numpy as np

from tfos.kv.compiled import inlined, kernel
from tfos.kv.hashing import hash_of, uniform
from tfos.kv.memory import floats, lock, octets, prefetch, unlock, words

# the words of a stripe: its lock, address and number of words of the index, address of the chunks'
# addresses, rows in chunks, rows ever used, first of the free rows or -1, rows in use; address of
# the sketch's counters, how many each of its lines has, what was counted since it was halved; the
# time of the newest copy, in milliseconds; rows that have expired
LOCK, INDEX, SLOTS, CHUNKS, CAPACITY, USED, FREE, LIVE, SKETCH, COUNTERS, COUNTED, COPIED, SWEPT = (
    range(13)
)
STRIPE_WORDS = 16  # two cache lines
# the words of a table's layout; STRIDE: bytes from row to row
WIDTH, FLOATS, STRIDE, SEED, INITIALIZER, ADMIT_AFTER, OPTIMIZER, IS_DENSE = range(8)

HEADER_BYTES = 16
_CHUNK_BITS = 10
CHUNK_ROWS = 1 << _CHUNK_BITS
# the largest row number, of 32 bits
MOST_ROWS = (1 << 32) - 2
SKETCH_LINES = 4
# as many counts as counters, times this, and all are halved (Einziger et al. 2017)
_HALVED_AFTER = 8
_LINE_BYTES = 64

_LOW = np.uint64(0xFFFFFFFF)
_32, _U0, _U1 = np.uint64(32), np.uint64(0), np.uint64(1)


@inlined
def row_address(chunks, row, stride):
    return chunks[row >> _CHUNK_BITS] + (row & (CHUNK_ROWS - 1)) * stride


@inlined
def find(stripe, stride, key, hashed):
    """The address of the key's row, or 0."""
    slots = np.uint64(stripe[SLOTS])
    index = words(stripe[INDEX], stripe[SLOTS])
    chunks = words(stripe[CHUNKS], stripe[CAPACITY] >> _CHUNK_BITS)
    mark = hashed & _LOW
    place = (mark * slots) >> _32
    while True:
        entry = np.uint64(index[place])
        if entry == _U0:
            return 0
        if entry >> _32 == mark:
            address = row_address(chunks, np.int64(entry & _LOW) - 1, stride)
            if words(address, 1)[0] == key:
                return address
        place += _U1
        if place == slots:
            place = _U0


@inlined
def prefetch_index(stripe, hashed):
    place = ((hashed & _LOW) * np.uint64(stripe[SLOTS])) >> _32
    prefetch(stripe[INDEX] + np.int64(place) * 8)


@inlined
def prefetch_row(stripe, stride, hashed):
    """Of the row that the key most likely has, if it is near where probing begins."""
    slots = np.uint64(stripe[SLOTS])
    index = words(stripe[INDEX], stripe[SLOTS])
    mark = hashed & _LOW
    place = (mark * slots) >> _32
    for _ in range(8):
        entry = np.uint64(index[place])
        if entry == _U0:
            return
        if entry >> _32 == mark:
            chunks = words(stripe[CHUNKS], stripe[CAPACITY] >> _CHUNK_BITS)
            address = row_address(chunks, np.int64(entry & _LOW) - 1, stride)
            for line in range(min(4, (stride + _LINE_BYTES - 1) // _LINE_BYTES)):
                prefetch(address + line * _LINE_BYTES)
            return
        place += _U1
        if place == slots:
            place = _U0


@inlined
def _enter(index, slots, entry):
    """Puts an entry, uint64, into words of an index that has room."""
    place = ((entry >> _32) * slots) >> _32
    while index[place] != 0:
        place += _U1
        if place == slots:
            place = _U0
    index[place] = np.int64(entry)


@inlined
def has_room(stripe):
    """Whether one more row fits; at most three of four words of the index are used."""
    return stripe[LIVE] < stripe[SLOTS] // 4 * 3 and (
        stripe[FREE] >= 0 or stripe[USED] < stripe[CAPACITY]
    )


@inlined
def make(stripe, stride, key, hashed):
    """The address of a new row, with its key set, in a stripe that has room and has no such key."""
    chunks = words(stripe[CHUNKS], stripe[CAPACITY] >> _CHUNK_BITS)
    if stripe[FREE] >= 0:
        row = stripe[FREE]
        address = row_address(chunks, row, stride)
        stripe[FREE] = words(address, 2)[0]
    else:
        row = stripe[USED]
        address = row_address(chunks, row, stride)
        stripe[USED] += 1
    stripe[LIVE] += 1
    words(address, 2)[0] = key
    index = words(stripe[INDEX], stripe[SLOTS])
    _enter(index, np.uint64(stripe[SLOTS]), ((hashed & _LOW) << _32) | np.uint64(row + 1))
    return address


@inlined
def initial(kind, numbers, seed, key, d):
    """Weight d of a new row; the kinds are spec.py's."""
    if kind == 0:
        return np.float32(numbers[0])
    if kind == 1:
        return np.float32(numbers[0] + numbers[1] * uniform(seed, key, d))
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(seed, key, 2 * d)))
    angle = 2.0 * np.pi * uniform(seed, key, 2 * d + 1)
    return np.float32(numbers[0] + numbers[1] * radius * np.cos(angle))


@inlined
def sighted(stripe, hashed):
    """Counts a key once more, and returns how often it was: never too few, but for what was halved.

    A count-min sketch (Cormode and Muthukrishnan 2005) with conservative update (Estan and
    Varghese 2002), of bytes.
    """
    counters = stripe[COUNTERS]
    sketch = octets(stripe[SKETCH], SKETCH_LINES * counters)
    mask = np.uint64(counters - 1)
    first, step = hashed & _LOW, (hashed >> np.uint64(20)) | _U1
    least = 255
    for line in range(SKETCH_LINES):
        place = line * counters + np.int64((first + np.uint64(line) * step) & mask)
        least = min(least, np.int64(sketch[place]))
    if least < 255:
        for line in range(SKETCH_LINES):
            place = line * counters + np.int64((first + np.uint64(line) * step) & mask)
            if sketch[place] == least:
                sketch[place] += np.uint8(1)
    stripe[COUNTED] += 1
    if stripe[COUNTED] >= _HALVED_AFTER * counters:
        stripe[COUNTED] = 0
        for place in range(SKETCH_LINES * counters):
            sketch[place] >>= np.uint8(1)
    return min(least + 1, 255)


@kernel("void(i8[::1], i8, i8, i8, i8)")
def grow(stripe, index, slots, chunks, capacity):
    """Gives a stripe an index of zeros at `index`, of more words, and more chunks, or as many."""
    lock_address = stripe.ctypes.data
    lock(lock_address)
    if index != stripe[INDEX]:
        before, after = words(stripe[INDEX], stripe[SLOTS]), words(index, slots)
        for place in range(stripe[SLOTS]):
            if before[place] != 0:
                _enter(after, np.uint64(slots), np.uint64(before[place]))
        stripe[INDEX], stripe[SLOTS] = index, slots
    stripe[CHUNKS], stripe[CAPACITY] = chunks, capacity
    unlock(lock_address)


@kernel("void(i8[:,::1], i8)")
def hold(stripes, now):
    """Takes the locks of all stripes of a table, which are to be copied; now: as for copy()."""
    for number in range(stripes.shape[0]):
        lock(stripes[number].ctypes.data)
        stripes[number, COPIED] = max(stripes[number, COPIED], now)


@kernel("void(i8[:,::1])")
def let_go(stripes):
    for number in range(stripes.shape[0]):
        unlock(stripes[number].ctypes.data)


@kernel("i8(i8[::1], i8[::1], i8, f8, i8)")
def sweep(stripe, layout, before, below, index):
    """Removes rows that were last changed before `before`, or are this near to zero; how many.

    below: negative for none. index: the address of zeros, as many words as the stripe's index has,
    which take its place.
    """
    width, stride = layout[WIDTH], layout[STRIDE]
    lock_address = stripe.ctypes.data
    lock(lock_address)
    chunks = words(stripe[CHUNKS], stripe[CAPACITY] >> _CHUNK_BITS)
    slots, after = np.uint64(stripe[SLOTS]), words(index, stripe[SLOTS])
    removed = 0
    for row in range(stripe[USED]):
        address = row_address(chunks, row, stride)
        header = words(address, 2)
        if header[1] < 0:  # free already
            continue
        is_dead = header[1] < before
        if not is_dead and below >= 0:
            weights = floats(address + HEADER_BYTES, width)
            is_dead = True
            for d in range(width):
                if not np.abs(weights[d]) <= below:
                    is_dead = False
                    break
        if is_dead:
            header[0], header[1] = stripe[FREE], -1
            stripe[FREE] = row
            removed += 1
        else:
            mark = hash_of(header[0]) & _LOW
            _enter(after, slots, (mark << _32) | np.uint64(row + 1))
    stripe[LIVE] -= removed
    stripe[SWEPT] += removed
    stripe[INDEX] = index
    unlock(lock_address)
    return removed


@kernel("i8(i8[::1], i8[::1], i8, i8, i8[::1], i8[::1], f4[:,::1])")
def copy(stripe, layout, since, now, keys, changed, values):
    """Copies rows that were changed at `since` or later into arrays: how many.

    now: rows that are changed after it count as changed then or later, also by a request that has
    begun before, so that a copy of what was changed since has them.
    values: [n, weights or weights and slots]. Where n is less than the stripe's rows, nothing is
    copied, and -rows is returned.
    """
    stride = layout[STRIDE]
    lock_address = stripe.ctypes.data
    lock(lock_address)
    stripe[COPIED] = max(stripe[COPIED], now)
    if stripe[LIVE] > keys.shape[0]:
        live = stripe[LIVE]
        unlock(lock_address)
        return -live
    chunks = words(stripe[CHUNKS], stripe[CAPACITY] >> _CHUNK_BITS)
    columns = values.shape[1]
    copied = 0
    for row in range(stripe[USED]):
        address = row_address(chunks, row, stride)
        header = words(address, 2)
        if header[1] >= max(since, 0):
            keys[copied], changed[copied] = header[0], header[1]
            data = floats(address + HEADER_BYTES, columns)
            for d in range(columns):
                values[copied, d] = data[d]
            copied += 1
    unlock(lock_address)
    return copied
