"""Says which sample stands at which position of training, by arithmetic instead of a stored, shuffled list.

A resume is then one integer, any number of readers agree without talking to each other, and "when did the model see
this window" is answered by the inverse. A list would cost 8 bytes a window (8 GB at 10^9) and must be saved with every
checkpoint; the permutation costs some 0.1 microseconds a window and nothing else.

The bijection on range(n) is a balanced Feistel network over pairs (l, r) of digits in base ceil(sqrt(n)), with cycle
walking for the few pairs beyond n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Digits in that
base, not bits, keep the domain below n + 2 sqrt(n) + 1, so that a walk is rare where powers of four would need up to
four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.uint64]
_Step = Callable[[Indices, np.uint64, Indices], Indices]

LIMIT = 1 << 62
"""Positions and sizes stay below this, so that no sum of two digits or positions overflows 64 bits."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's step, 2**64 / golden ratio: multiples of it, mixed, are its random stream."""

_ROUNDS = 8  # four suffice for the theory (Luby and Rackoff, 1988); small n has few distinct round outputs, hence more


def mix(values: Indices) -> Indices:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derived_seed(seed: int, number: int) -> int:
    """The seed of the number-th of several things that one seed decides; number 0 has the seed itself."""
    if number == 0:
        return seed
    return int(mix(np.array([seed], dtype=np.uint64) + np.array([number], dtype=np.uint64) * GOLDEN)[0])


def _round_keys(seed: int, epoch: int) -> Indices:
    """One 64-bit key a round, from both numbers."""
    mixed_seed = mix(np.array([seed], dtype=np.uint64) * GOLDEN + GOLDEN)
    base = mix(mixed_seed + np.array([epoch], dtype=np.uint64) * GOLDEN)
    return mix(base + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * GOLDEN)


@dataclass(frozen=True)
class Permutation:
    """A keyed bijection on range(n); constant memory for any n from 1 to 2**62.

    Both directions take and give arrays of uint64 of any shape.
    """

    n: int
    seed: int
    epoch: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= LIMIT:
            raise ValueError(f"A permutation needs 1 to 2**62 items, not {self.n}.")
        if not (0 <= self.seed < 1 << 64 and 0 <= self.epoch < 1 << 64):
            raise ValueError(f"Seed and epoch must be in 0 .. 2**64 - 1, not {self.seed} and {self.epoch}.")

    def forward(self, positions: Indices) -> Indices:
        """Positions within the epoch -> items, both in range(n)."""
        return self._walk(positions, _encrypt)

    def inverse(self, items: Indices) -> Indices:
        """Items -> their positions within the epoch, both in range(n)."""
        return self._walk(items, _decrypt)

    def _walk(self, values: Indices, step: _Step) -> Indices:
        values = np.asarray(values, dtype=np.uint64)
        if values.size and int(values.max()) >= self.n:
            raise ValueError(f"{int(values.max())} is outside a permutation of {self.n} items.")
        base = np.uint64(isqrt(self.n - 1) + 1)
        keys = _round_keys(self.seed, self.epoch)
        result = step(values.reshape(-1), base, keys)
        while (beyond := np.flatnonzero(result >= self.n)).size:
            result[beyond] = step(result[beyond], base, keys)
        return result.reshape(values.shape)


def _encrypt(values: Indices, base: np.uint64, keys: Indices) -> Indices:
    left, right = values // base, values % base
    for key in keys:
        left, right = right, (left + mix(right + key) % base) % base
    return left * base + right


def _decrypt(values: Indices, base: np.uint64, keys: Indices) -> Indices:
    left, right = values // base, values % base
    for key in keys[::-1]:
        left, right = (right + base - mix(left + key) % base) % base, left
    return left * base + right


@dataclass(frozen=True)
class Order:
    """The endless order of training over n samples: epoch after epoch, each a new permutation.

    A *position* counts samples over the whole training; an *item* is a sample's index in range(n).
    """

    n: int
    seed: int

    def items(self, start: int, count: int) -> Indices:
        """The items at positions start .. start + count; shape (count,)."""
        if start < 0 or count < 0 or start + count > LIMIT:
            raise ValueError(f"Positions {start} .. {start + count} are outside 0 .. 2**62.")
        parts = []
        end = start + count
        while start < end:
            epoch, offset = divmod(start, self.n)
            stop = min(end, (epoch + 1) * self.n)
            within = np.arange(offset, offset + stop - start, dtype=np.uint64)
            parts.append(Permutation(self.n, self.seed, epoch).forward(within))
            start = stop
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

    def position(self, item: int, epoch: int) -> int:
        """The one position at which the item stands in the epoch."""
        within = Permutation(self.n, self.seed, epoch).inverse(np.array([item], dtype=np.uint64))
        return epoch * self.n + int(within[0])
